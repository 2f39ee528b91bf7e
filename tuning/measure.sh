#!/bin/sh
# Measures this build on this host, each part in one run beside its floor and, where it is installed, a peer.
#
#   measure.sh [--out DIR] [PART...]      all parts but "million" when none is named
#
#   memory    15,000 idle subscribed connections: bytes of ours and of the kernel
#   wide      9,000 subscribers, 5 messages a second, by WebSocket (in JSON, in Protobuf) and by server-sent events
#   busy      1,000 subscribers, 500 messages a second, at once and with batch_max_delay; nats-server and nginx with Nchan
#             too if they are installed
#   tail      100 subscribers, 100 messages a second: until the last one has it, beside the floor
#   connect   15,000 connections as fast as they become ready
#   stalled   100 channels of 1,000 members among 10,000 connections, before and after 10 of them stop reading
#   million   1,000,000 connections held for HOLD (default 10m) with pings, then one message to all: needs 13 GiB,
#             and `host.sh --apply` before
#
# Builds with `cargo build --release --workspace` first; reports go to DIR (default target/measured) as text and JSON.
# Runs in a network namespace of its own where that is allowed: no connection tracking, ports to itself.

set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/target/measured
# Below what host.sh gives to those who connect: one of their ports cannot be listened on.
port=8700
hold=${HOLD:-10m}

while [ $# -gt 0 ]; do
    case $1 in
        --out) shift; out=${1:?--out needs a folder} ;;
        -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) echo "measure.sh: $1 is not known; see --help" >&2; exit 2 ;;
        *) break ;;
    esac
    shift
done
parts=${*:-memory wide busy tail connect stalled}
for part in $parts; do
    case $part in
        memory | wide | busy | tail | connect | stalled | million) ;;
        *) echo "measure.sh: $part is no part; see --help" >&2; exit 2 ;;
    esac
done

if [ -z "${MEASURE_INSIDE:-}" ]; then
    (cd "$root" && cargo build --release --workspace --quiet)
    mkdir -p "$out"
    MEASURE_INSIDE=1
    export MEASURE_INSIDE HOLD
    if unshare -n true 2>/dev/null; then
        # shellcheck disable=SC2086
        exec unshare -n sh -c 'ip link set lo up; exec sh "$0" --out "$@"' "$0" "$out" $parts
    fi
fi

cat >"$out/trunkline.toml" <<END
[api]
key = "measured"
[client]
allow_anonymous = true
[channel]
allow_subscribe_for_client = true
[[namespace]]
name = "gather10"
allow_subscribe_for_client = true
batch_max_delay = "10ms"
[[namespace]]
name = "gather16"
allow_subscribe_for_client = true
batch_max_delay = "16ms"
END

loadgen() {
    name=$1
    shift
    status=0
    ${beside:-} nice -n "${niceness:-0}" "$root/target/release/trunkline-loadgen" "$@" --quiet --json "$out/$name.json" \
        >"$out/$name.txt" 2>&1 || status=$?
    printf '\n== %s: exit %s\n   trunkline-loadgen %s\n' "$name" "$status" "$*"
    grep -E '^ [a-z].*[0-9] (B|us|ms|s|%) |^(passed|FAILED|INVALID)' "$out/$name.txt" || tail -n 5 "$out/$name.txt"
}

serve() {
    "$root/target/release/trunkline" --config "$out/trunkline.toml" --listen 127.0.0.1:$port "$@" \
        >"$out/daemon.log" 2>&1 &
    pid=$!
    # Where the API listens.
    until curl -sf "http://127.0.0.1:$port/health" || curl -sf "http://127.0.0.1:$((port + 4))/health"; do
        kill -0 "$pid" || { cat "$out/daemon.log" >&2; exit 1; }
        sleep 0.1
    done >/dev/null
}

ended() {
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

ours="--url ws://127.0.0.1:$port/connection/websocket --api-key measured"
# One shard and one generating thread.
one="--threads 1"
# A shard is pinned to the first cpu: beside it, where a part does not need more, the generator takes the others, as if
# clients were elsewhere.
cpus=$(nproc)
others=
if [ "$cpus" -gt 1 ] && command -v taskset >/dev/null; then others="taskset -c 1-$((cpus - 1))"; fi

for part in $parts; do
    case $part in
        memory)
            serve --shards 1
            loadgen memory idle -n 15000 --hold 30s $ours $one --pid "$pid" --with-floor
            ended
            ;;
        wide)
            load="-n 9000 --rate 5 --seconds 15s --warm-up 2s $one"
            serve --shards 1
            loadgen wide fanout $load $ours --pid "$pid" --with-floor
            loadgen wide-sse fanout $load --profile sse --url "http://127.0.0.1:$port/sse?channel={channel}" \
                --publish-url "http://127.0.0.1:$port/api/publish" --publish-header "X-API-Key: measured" \
                --publish-body '{"channel":"{channel}","data":{data}}' --pid "$pid"
            loadgen wide-again fanout $load $ours --pid "$pid"
            loadgen wide-protobuf fanout $load $ours --profile centrifuge-protobuf --pid "$pid"
            ended
            ;;
        busy)
            load="-n 1000 --rate 500 --seconds 15s --warm-up 2s $one"
            serve --shards 1
            loadgen busy fanout $load $ours --pid "$pid"
            loadgen busy-protobuf fanout $load $ours --profile centrifuge-protobuf --pid "$pid"
            loadgen busy-gather10 fanout $load $ours --channel-prefix gather10: --pid "$pid"
            loadgen busy-gather16 fanout $load $ours --channel-prefix gather16: --pid "$pid"
            ended
            if command -v nats-server >/dev/null; then
                printf 'listen: "127.0.0.1:%s"\nwebsocket { listen: "127.0.0.1:%s", no_tls: true }\n' \
                    $((port + 1)) $((port + 2)) >"$out/nats.conf"
                GOMAXPROCS=1 nats-server -c "$out/nats.conf" >"$out/nats.log" 2>&1 &
                pid=$!
                sleep 1
                loadgen busy-nats fanout $load --profile nats --url "ws://127.0.0.1:$((port + 2))/" --pid "$pid"
                ended
            fi
            module=$(ls /usr/lib/nginx/modules/ngx_nchan_module.so 2>/dev/null || true)
            if command -v nginx >/dev/null && [ -n "$module" ]; then
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
        listen 127.0.0.1:$((port + 3));
        location ~ /pub/(.+)\$ { nchan_publisher; nchan_channel_id \$1; }
        location ~ /sub/(.+)\$ { nchan_subscriber websocket; nchan_channel_id \$1; }
    }
}
END
                nginx -p "$out" -c "$out/nginx.conf" &
                pid=$!
                sleep 1
                loadgen busy-nchan fanout $load --profile websocket --url "ws://127.0.0.1:$((port + 3))/sub/{channel}" \
                    --publish-url "http://127.0.0.1:$((port + 3))/pub/{channel}" --publish-body '{data}' --pid "$pid"
                ended
            fi
            ;;
        tail)
            # The API has a port of its own: a publication then passes one thread before the shard instead of two.
            serve --shards 1 --api-listen 127.0.0.1:$((port + 4))
            beside=$others
            loadgen tail fanout -n 100 --rate 100 --seconds 20s --warm-up 2s $ours $one --pid "$pid" \
                --api "http://127.0.0.1:$((port + 4))/api" --with-floor
            beside=
            ended
            ;;
        connect)
            serve --shards 1
            loadgen connect connect-storm -n 15000 $ours $one --pid "$pid" --with-floor
            ended
            ;;
        stalled)
            serve --shards 1
            loadgen stalled slow-readers -n 10000 --slow 10 -c 100 --per-connection 10 --rate 100 --seconds 20s \
                --payload 1000 $ours $one --pid "$pid"
            ended
            ;;
        million)
            serve --shards 54
            # Two threads of clients beside 54 shards would get their share of the cpus, and nothing else.
            niceness=-15
            loadgen million idle -n 1000000 --hold "$hold" --broadcast --drain 60s $ours --pid "$pid"
            grep -E 'VmHWM|VmRSS' "/proc/$pid/status"
            ended
            ;;
    esac
done
