#!/bin/sh
# Measures this build on this host, each part in one run beside its floor and, where it is installed, a peer.
#
#   measure.sh [--out DIR] [PART...]      all parts but "peers" and the millions when none is named
#
#   memory    15,000 idle subscribed connections: bytes of ours and of the kernel; with a channel each, with 5 of 1,000, with
#             presence and history, and as users of a chat with 20 of 5,000 groups
#   members   what a member of a channel costs: 15,000 connections in 20 of 5,000 channels, with presence and without; in 300,000
#             channels; 300,000 cursors of 15,000 users
#   wide      9,000 subscribers, 5 messages a second, by WebSocket (in JSON, in Protobuf) and by server-sent events
#   busy      1,000 subscribers, 500 messages a second, at once and with batch_max_delay; nats-server and nginx with Nchan
#             too if they are installed
#   tail      100 subscribers, 100 messages a second: until the last one has it, beside the floor; the same in 10 channels
#             from 64 publishers
#   many      100,000 channels of 10 subscribers, 20,000 messages a second
#   chat      10,000 users with tokens, a channel of their own and 20 of 3,000 groups with presence, joins, leaves and history:
#             4 messages and a history read a minute each, 6 reconnects an hour
#   connect   15,000 connections as fast as they become ready
#   stalled   100 channels of 1,000 members among 10,000 connections, before and after 10 of them stop reading
#   tls       15,000 idle connections over TLS and plain; 9,000 subscribers, 5 messages a second, over TLS and plain in turns;
#             1,000 subscribers with and without 2,000 new TLS connections a second beside them. Needs openssl
#   compression
#             9,000 subscribers, 5 messages of 1 KB of JSON a second, compressed and not in turns
#   peers     trunkline, nats-server, mosquitto, nginx with Nchan, and servers on npm ws and Socket.IO (npm install --prefix
#             tuning/peers), those that are installed: memory, connect, wide, busy, tail and many of each, and a table of it
#   million   1,000,000 connections held for HOLD (default 10m) with pings, then one message to all: needs 13 GiB,
#             and `host.sh --apply` before
#   two-million
#             the same with 2,000,000 for 5 minutes (HOLD), pinged every 2 minutes: needs 20 GiB
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
parts=${*:-memory members wide busy tail many chat connect stalled tls compression}
for part in $parts; do
    case $part in
        memory | members | wide | busy | tail | many | chat | connect | stalled | tls | compression | peers | million | two-million) ;;
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

tls=
case " $parts " in
    *" tls "*)
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
            -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
            -keyout "$out/tls.key" -out "$out/tls.pem" 2>"$out/openssl.log"
        tls=$(printf '[tls]\ncert = "%s"\nkey = "%s"' "$out/tls.pem" "$out/tls.key")
        ;;
esac

chat='allow_subscribe_for_client = true
presence = true
join_leave = true
history_size = 100
history_ttl = "10m"
allow_recovery = true
allow_positioning = true
allow_history_for_subscriber = true'
cat >"$out/trunkline.toml" <<END
$tls
[api]
key = "measured"
[client]
allow_anonymous = true
compression = true
[client.token]
hmac_secret = "measured"
[channel]
allow_subscribe_for_client = true
[[namespace]]
name = "group"
$chat
[[namespace]]
name = "user"
$chat
[[namespace]]
name = "plain"
allow_subscribe_for_client = true
[[namespace]]
name = "present"
allow_subscribe_for_client = true
presence = true
[[namespace]]
name = "cursors"
cursors = true
history_size = 10
history_ttl = "1h"
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

# A figure of a run by its name, to full precision.
figure() {
    json_of "$1" "$2" value
}

# The same of the floor.
floor_figure() {
    json_of "$1" "$2" floor
}

json_of() {
    awk -v name="\"name\": \"$2\"," -v key="\"$3\":" '/{/ { is_it = 0; found = "" }
        index($0, name) { is_it = 1 }
        index($0, key) { gsub(/[^0-9.e+-]/, "", $2); found = $2 }
        /}/ && is_it { print found; exit }' "$out/$1.json"
}

# compare WHAT FIGURE RUN... / RUN...: the mean of a figure over the first runs against that over the others.
compare() {
    what=$1 name=$2
    shift 2
    for run in "$@"; do
        if [ "$run" = / ]; then echo /; else figure "$run" "$name"; fi
    done | awk -v what="$what" '$1 == "/" { other = 1; next } { sum[other + 0] += $1; count[other + 0]++ }
        END {
            if (!count[0] || !count[1] || !sum[1]) { print "   " what ": a figure is missing"; exit }
            a = sum[0] / count[0]; b = sum[1] / count[1]
            printf "\n== %s: %.3f against %.3f, ratio %.2f\n", what, a, b, a / b
        }'
}

serve() {
    "$root/target/release/trunkline" --config "$out/trunkline.toml" --listen 127.0.0.1:$port "$@" \
        >"$out/daemon.log" 2>&1 &
    pid=$!
    until curl -sf "http://127.0.0.1:$port/health"; do
        kill -0 "$pid" || { cat "$out/daemon.log" >&2; exit 1; }
        sleep 0.1
    done >/dev/null
}

# Bytes of the daemon's memory.
rss() {
    awk '/^Rss:/ { print $2 * 1024 }' "/proc/$pid/smaps_rollup"
}

# add_members FROM TO: channels with a thousand of 15,000 users each.
add_members() {
    awk -v from="$1" -v to="$2" 'BEGIN {
        for (at = from; at < to; at++) {
            printf "{\"channel\":\"cursors:%d\",\"add\":[", at
            for (n = 0; n < 1000; n++) printf "%s\"user%05d\"", n ? "," : "", (at * 1000 + n) % 15000
            print "]}"
        }
    }' | while read -r body; do
        echo "$body" | curl -sf -H 'X-API-Key: measured' -d @- "http://127.0.0.1:$port/api/members" >/dev/null
    done
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

# shellcheck source=tuning/peers/peers.sh
. "$root/tuning/peers/peers.sh"

for part in $parts; do
    case $part in
        peers) measure_peers ;;
        memory)
            serve --shards 1
            loadgen memory idle -n 15000 --hold 30s $ours $one --pid "$pid" --with-floor
            ended
            # Each beside a process of its own: what one has given back would be there for the next.
            while read -r name channels; do
                serve --shards 1
                # shellcheck disable=SC2086
                loadgen "memory-$name" idle -n 15000 --hold 12s $channels $ours $one --pid "$pid"
                ended
            done <<END
own -c 15000
five -c 1000 --per-connection 5
five-shown -c 1000 --per-connection 5 --channel-prefix group:
chat -c 5000 --per-connection 20 --channel-prefix group: --personal-prefix user:
chat-tokens -c 5000 --per-connection 20 --channel-prefix group: --personal-prefix user: --token-secret measured
END
            ;;
        members)
            # 20 channels of 15,000 connections: what one more of them costs than one of the first run.
            more() {
                awk -v what="$1" -v one="$(figure "members-$2" "$held")" -v other="$(figure members-shared "$held")" -v share="$3" \
                    'BEGIN { printf "\n== %s: %.1f B\n", what, (one - other) / 20 / share }'
            }
            held="server's own memory a held connection"
            while read -r name channels; do
                serve --shards 1
                # shellcheck disable=SC2086
                loadgen "members-$name" idle -n 15000 --hold 12s --per-connection 20 $channels $ours $one --pid "$pid"
                ended
            done <<END
shared -c 5000 --channel-prefix plain:
present -c 5000 --channel-prefix present:
own -c 300000 --channel-prefix plain:
END
            more "presence of a member of a channel" present 1
            more "a channel without history, at its owner and its subscriber" own 0.983
            serve --shards 1
            add_members 0 1
            before=$(rss)
            add_members 1 301
            awk -v before="$before" -v after="$(rss)" 'BEGIN { printf "\n== a cursor: %.1f B\n", (after - before) / 300000 }'
            ended
            ;;
        many)
            serve --shards 1
            loadgen many fanout -n 10000 -c 100000 --per-connection 100 --rate 20000 --publishers 64 --seconds 15s \
                --warm-up 3s $ours $one --pid "$pid"
            ended
            ;;
        chat)
            serve --shards 1
            loadgen chat chat -n 10000 -c 3000 --per-connection 20 --channel-prefix group: --personal-prefix user: \
                --token-secret measured --join-leave --open-rate 1000 $ours $one --pid "$pid"
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
            for peer in nats nchan; do
                start_peer "$peer" || continue
                # shellcheck disable=SC2086
                loadgen "busy-$peer" fanout $load $how --pid "$pid"
                ended
            done
            ;;
        tail)
            serve --shards 1
            beside=$others
            loadgen tail fanout -n 100 --rate 100 --seconds 20s --warm-up 2s $ours $one --pid "$pid" --with-floor
            loadgen tail-publishers fanout -n 100 -c 10 --per-connection 10 --rate 100 --publishers 64 --seconds 20s \
                --warm-up 2s $ours $one --pid "$pid" --with-floor
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
        tls)
            # Both ends in one run, in turns; publications take the plain port in both, so that deliveries are what differs.
            secure="--url wss://127.0.0.1:$((port + 5))/connection/websocket --tls-ca $out/tls.pem --api-key measured"
            secure="$secure --api http://127.0.0.1:$port/api"
            bytes="server's own memory a held connection"
            for link in tls plain; do
                serve --shards 1 --listen-tls "127.0.0.1:$((port + 5))"
                if [ $link = tls ]; then where=$secure; else where=$ours; fi
                loadgen "tls-memory-$link" idle -n 15000 --hold 30s $where $one --pid "$pid"
                ended
            done
            compare "own memory a connection, TLS against plain, in bytes" "$bytes" tls-memory-tls / tls-memory-plain

            serve --shards 1 --listen-tls "127.0.0.1:$((port + 5))"
            load="-n 9000 --rate 5 --seconds 15s --warm-up 2s $one"
            for turn in 1 2; do
                loadgen tls-wide-plain$turn fanout $load $ours --pid "$pid"
                loadgen tls-wide-tls$turn fanout $load $secure --pid "$pid"
            done
            compare "cpu a delivery, TLS against plain, in us" "fan-out: server cpu a delivery" \
                tls-wide-tls1 tls-wide-tls2 / tls-wide-plain1 tls-wide-plain2
            beside=$others
            loadgen tls-storm fanout -n 1000 --rate 50 --seconds 15s --warm-up 2s --storm 2000 $secure $one --pid "$pid"
            beside=
            ended
            for at in "fan-out: delivery p99" "fan-out in a storm: delivery p99"; do
                printf '   %s: %s ms\n' "$at" "$(figure tls-storm "$at")"
            done
            ;;
        compression)
            serve --shards 1
            # What is like it in each object is what a real list has.
            order='"symbol":"EURUSD","side":"buy","at":"2026-11-27T10:15:3'
            list=
            for n in 1 2 3 4 5 6 7 8; do
                list="$list${list:+,}{\"id\":4821$n$((n * 37 % 10)),\"price\":1.08$((n * 7919 % 1000)),\"amount\":$((n * 2503)),$order$n.$((n * 611 % 1000))Z\"}"
            done
            body="{\"channel\":\"{channel}\",\"data\":{\"mark\":{data},\"orders\":[$list]}}"
            for turn in 1 2; do
                for form in plain compressed; do
                    if [ $form = compressed ]; then offer=--compression; else offer=; fi
                    loadgen "compression-$form$turn" fanout -n 9000 --rate 5 --seconds 15s --warm-up 2s $ours $one $offer \
                        --publish-body "$body" --pid "$pid"
                    grep 'came compressed' "$out/compression-$form$turn.txt" || true
                done
            done
            compare "cpu a delivery, compressed against not, in us" "fan-out: server cpu a delivery" \
                compression-compressed1 compression-compressed2 / compression-plain1 compression-plain2
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
        two-million)
            # What is set here is of this part alone.
            (
                # What each shard may keep is lowered: 106 of them would promise more than this machine has.
                set -a
                TRUNKLINE_CLIENT_CONNECTIONS_MAX=2005000 TRUNKLINE_CLIENT_PING_INTERVAL=2m TRUNKLINE_CLIENT_PONG_TIMEOUT=60s
                TRUNKLINE_LIMITS_HISTORY_BYTES_MAX=8MiB TRUNKLINE_LIMITS_CHANNELS_MAX=20000 TRUNKLINE_LIMITS_CLIENT_BUFFERS_BYTES_MAX=128MiB
                TRUNKLINE_LIMITS_HTTP_REQUESTS_MAX=16 TRUNKLINE_LIMITS_HTTP_INPUT_BYTES_MAX=8MiB TRUNKLINE_LIMITS_INBOX_MESSAGES=512
                serve --shards 106
                niceness=-15
                loadgen two-million idle -n 2000000 --hold "${HOLD:-5m}" --handshake-timeout 60s --broadcast --drain 120s $ours --pid "$pid"
                grep -E 'VmHWM|VmRSS' "/proc/$pid/status"
                ended
            )
            ;;
    esac
done
