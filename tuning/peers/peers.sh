# Servers that measure.sh measures beside this one; it sources this file, with $root, $out and $port set.
# shellcheck shell=sh disable=SC2034,SC2154

peers="trunkline nats mosquitto nchan ws socketio"

# start_peer NAME: starts it on $port or ports behind it. Sets $pid, and in $how what the generator says to it. False, with a
# sentence, where it is not installed.
start_peer() {
    publish="http://127.0.0.1:$port/publish"
    case $1 in
        trunkline)
            serve --shards 1
            how=$ours
            return
            ;;
        nats)
            has nats-server "Debian's nats-server" || return 1
            printf 'listen: "127.0.0.1:%s"\nmax_connections: 100000\nwebsocket { listen: "127.0.0.1:%s", no_tls: true }\n' \
                $((port + 1)) $((port + 2)) >"$out/nats.conf"
            GOMAXPROCS=1 nats-server -c "$out/nats.conf" >"$out/nats.log" 2>&1 &
            how="--profile nats --url ws://127.0.0.1:$((port + 2))/"
            ;;
        mosquitto)
            has mosquitto "Debian's mosquitto" || return 1
            # Over TCP: Debian's build of it opens no WebSocket listener.
            printf 'listener %s 127.0.0.1\nallow_anonymous true\nlog_type error\npersistence false\n' \
                "$port" >"$out/mosquitto.conf"
            mosquitto -c "$out/mosquitto.conf" >"$out/mosquitto.log" 2>&1 &
            how="--profile mqtt --url tcp://127.0.0.1:$port"
            ;;
        nchan)
            module=$(ls /usr/lib/nginx/modules/ngx_nchan_module.so 2>/dev/null || true)
            [ -n "$module" ] || { echo "   nchan is left out: Debian's libnginx-mod-nchan is not installed"; return 1; }
            cat >"$out/nginx.conf" <<END
load_module $module;
daemon off;
master_process off;
pid $out/nginx.pid;
error_log $out/nginx.log;
worker_rlimit_nofile 20000;
events { worker_connections 20000; }
http {
    access_log off;
    server {
        listen 127.0.0.1:$port backlog=4096;
        location ~ /pub/(.+)\$ { nchan_publisher; nchan_channel_id \$1; }
        location ~ /sub/(.+)\$ { nchan_subscriber websocket; nchan_channel_id \$1; }
    }
}
END
            nginx -p "$out" -c "$out/nginx.conf" &
            how="--profile websocket --url ws://127.0.0.1:$port/sub/{channel}"
            how="$how --publish-url http://127.0.0.1:$port/pub/{channel} --publish-body {data}"
            ;;
        ws)
            node_peer ws || return 1
            how="--profile websocket --url ws://127.0.0.1:$port/ --subscribe {\"subscribe\":\"{channel}\"}"
            how="$how --ready-on \"subscribed\":true --publish-url $publish --publish-body {\"channel\":\"{channel}\",\"data\":{data}}"
            ;;
        socketio)
            node_peer socketio || return 1
            how="--profile socketio --url ws://127.0.0.1:$port/socket.io/"
            how="$how --publish-url $publish --publish-body {\"channel\":\"{channel}\",\"data\":{data}}"
            ;;
    esac
    pid=$!
    sleep 2
    kill -0 "$pid" 2>/dev/null || { echo "   $1 did not start: its log is in $out"; return 1; }
}

has() {
    command -v "$1" >/dev/null && return
    echo "   $1 is left out: $2 is not installed"
    return 1
}

# A server of tuning/peers that node runs.
node_peer() {
    has node "Debian's nodejs" || return 1
    if [ ! -d "$root/tuning/peers/node_modules" ]; then
        echo "   $1 is left out: npm install --prefix tuning/peers"
        return 1
    fi
    node "$root/tuning/peers/$1.mjs" "$port" >"$out/$1.log" 2>&1 &
}

# The loads, each as all peers get it.
peer_load() {
    case $1 in
        memory) echo idle -n 15000 --hold 12s ;;
        connect) echo connect-storm -n 15000 ;;
        wide) echo fanout -n 9000 --rate 5 --seconds 12s --warm-up 2s ;;
        busy) echo fanout -n 1000 --rate 500 --seconds 12s --warm-up 2s ;;
        tail) echo fanout -n 100 --rate 100 --seconds 12s --warm-up 2s ;;
        many) echo fanout -n 10000 -c 100000 --per-connection 100 --rate 20000 --publishers 64 --seconds 10s --warm-up 2s ;;
    esac
}

peer_loads="memory connect wide busy tail many"

# Every peer under every load.
measure_peers() {
    for peer in $peers; do
        for load in $peer_loads; do
            # One channel a connection is all that its URLs say.
            if [ "$peer $load" = "nchan many" ]; then continue; fi
            start_peer "$peer" || break
            floor=
            if [ "$peer" = trunkline ] && [ "$load" != many ]; then floor=--with-floor; fi
            # shellcheck disable=SC2046,SC2086
            loadgen "peer-$peer-$load" $(peer_load "$load") $how $one --pid "$pid" $floor
            ended
        done
    done
    peer_table | tee "$out/peers.tsv"
}

# A line for each peer and load: cpu, memory, latencies, and how the run ended.
peer_table() {
    printf 'load\tpeer\tmemory B\topen cpu us\tdelivery cpu us\tdelivery p99 ms\tlast p50 ms\tended\n'
    for load in $peer_loads; do
        for peer in $peers; do
            run="peer-$peer-$load"
            [ -s "$out/$run.json" ] || continue
            ending=$(grep -oE '^(passed|FAILED|INVALID)' "$out/$run.txt" | tail -n 1)
            row "$load" "$peer" "$run" "${ending:-stopped}" figure
            if [ "$peer" = trunkline ] && [ -n "$(floor_figure "$run" 'open: server cpu a connection')" ]; then
                row "$load" floor "$run" - floor_figure
            fi
        done
    done
}

row() {
    memory=$($5 "$3" "server's own memory a held connection")
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "${memory:--}" \
        "$($5 "$3" 'open: server cpu a connection' | grep . || echo -)" \
        "$($5 "$3" 'fan-out: server cpu a delivery' | grep . || echo -)" \
        "$($5 "$3" 'fan-out: delivery p99' | grep . || echo -)" \
        "$($5 "$3" 'fan-out: last subscriber p50' | grep . || echo -)" "$4"
}
