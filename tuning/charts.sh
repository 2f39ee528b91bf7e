#!/bin/sh
# Draws the table that `measure.sh peers` has written: a chart of each load as SVG. Needs gnuplot.
#
#   charts.sh [TABLE [FOLDER]]      from target/measured/peers.tsv into docs/charts when none is named
#
# A peer whose run did not pass (it lost messages, or the generator was late beside it) has a star behind its name.

set -eu

case ${1:-} in
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
root=$(cd "$(dirname "$0")/.." && pwd)
table=${1:-$root/target/measured/peers.tsv}
folder=${2:-$root/docs/charts}
[ -s "$table" ] || { echo "charts.sh: no table at $table: run measure.sh peers first" >&2; exit 2; }
command -v gnuplot >/dev/null || { echo "charts.sh: gnuplot is not installed" >&2; exit 2; }
mkdir -p "$folder"

# chart FILE LOAD COLUMN TITLE UNIT [log]
chart() {
    points=$(awk -F '\t' -v load="$2" -v column="$3" '$1 == load && $column ~ /^[0-9]/ {
        printf "\"%s%s\"\t%s\t" ($column < 100 ? "%.3g" : "%.0f") "\n", $2, ($8 == "passed" || $8 == "-") ? "" : " *", $column, $column
    }' "$table")
    [ -n "$points" ] || return 0
    scale=
    if [ "${6:-}" = log ]; then scale="set logscale y"; fi
    gnuplot <<END
set terminal svg size 640,300 font "sans-serif,12" background "white"
set output "$folder/$1.svg"
set title "$4"
set ylabel "$5"
set style fill solid 0.8 noborder
set boxwidth 0.6
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
set offsets 0, 0, graph 0.15, 0
unset key
$scale
\$points << POINTS
$points
POINTS
set yrange [${7:-0}:*]
plot \$points using 0:2:xticlabels(1) with boxes lc rgb "#2a6f97", \
     \$points using 0:2:3 with labels offset 0, 0.7
END
}

chart memory memory 3 "Own memory of an idle, subscribed connection, of 15,000" "bytes"
chart connect connect 4 "cpu to let one client in, of 15,000 at once" "us"
chart wide wide 5 "cpu a delivery: 9,000 subscribers, 5 messages a second" "us"
chart busy busy 5 "cpu a delivery: 1,000 subscribers, 500 messages a second" "us"
chart busy-p99 busy 6 "p99 of deliveries: 1,000 subscribers, 500 messages a second" "ms" log 1
chart tail tail 7 "until the last of 100 has it, median: 100 messages a second" "ms"
chart tail-p99 tail 6 "p99 of deliveries: 100 subscribers, 100 messages a second" "ms"
chart many many 5 "cpu a delivery: 100,000 channels of 10, 20,000 messages a second" "us"
chart many-p99 many 6 "p99 of deliveries: 100,000 channels of 10, 20,000 messages a second" "ms" log 1
ls "$folder"
