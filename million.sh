#!/bin/sh
# usage: million.sh N HOLD OUT
ip link set lo up
cd /tmp/m
./trunkline --config bench.toml --shards 54 > $3.server 2>&1 &
P=$!
sleep 3
./trunkline-loadgen idle -n $1 --hold $2 --broadcast --api-key KEY --pid $P -q --json $3.json --drain 30s > $3.txt 2>&1
echo "exit $?" >> $3.txt
curl -s -H 'X-API-Key: KEY' http://127.0.0.1:8000/metrics > $3.metrics
cat /proc/$P/status | grep -E 'VmHWM|VmRSS' >> $3.txt
kill $P; wait $P
