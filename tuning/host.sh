#!/bin/sh
# Settings of a Linux host that holds very many connections, each with its reason.
#
#   host.sh                    compare this host with what is wanted (exit 1: something is short of it)
#   host.sh --apply            set what is short of it; what was there before is kept for --revert
#   host.sh --revert           put back what --apply replaced
#   host.sh --list             what is wanted, for other programs: key, kind, value, reason, separated by tabs
#
#   --connections N            what the host is to hold (default 1000000)
#   --state FILE               where --apply keeps the old values (default /var/lib/trunkline/host-tuning.saved)
#   --root DIR                 take DIR/proc/sys and DIR/sys for /proc/sys and /sys, to try it out
#
# Nothing is lowered: a kind "min" is left alone when it is higher already, as is each number of "min3". Settings hold
# until the next boot; a sysctl.d file made of --list keeps them.

set -eu

connections=1000000
state=/var/lib/trunkline/host-tuning.saved
root=
action=check

while [ $# -gt 0 ]; do
    case $1 in
        --apply) action=apply ;;
        --revert) action=revert ;;
        --list) action=list ;;
        --connections) shift; connections=${1:?--connections needs a number} ;;
        --state) shift; state=${1:?--state needs a file} ;;
        --root) shift; root=${1:?--root needs a folder} ;;
        -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "host.sh: $1 is not known; see --help" >&2; exit 2 ;;
    esac
    shift
done
case $connections in
    '' | *[!0-9]*) echo "host.sh: --connections needs a number" >&2; exit 2 ;;
esac

# Buffers, in pages. An idle connection has none. One that is sent to takes a page on this host, and one more if the
# client is on it too; half of the memory is the bound all the same.
memory_kib=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)
page=$(getconf PAGESIZE)
tcp_pages=$((connections * 2))
tcp_pages_max=$((memory_kib * 1024 / page / 2))
[ "$tcp_pages" -le "$tcp_pages_max" ] || tcp_pages=$tcp_pages_max
files=$((connections + connections / 10 + 10000))

# kind|key|value|reason. A key with a slash is a file under /sys. "min": at least; "min3": three numbers, each at least;
# "range": a span that covers this one; "is": exactly.
wanted() {
    cat <<END
min|fs.file-max|$((files * 2))|every socket is an open file of the host, io_uring's direct descriptors too; beyond it accept fails with ENFILE
min|fs.nr_open|$files|the highest RLIMIT_NOFILE there can be, and RLIMIT_NOFILE bounds each ring's table: with less, more shards are needed for as many connections
min|net.core.somaxconn|4096|the daemon asks for 4096 waiting clients a shard; the kernel cuts it to this, and a reconnect storm then loses SYNs for a second each
min|net.ipv4.tcp_max_syn_backlog|16384|handshakes under way; beyond it cookies answer, without window scaling, for as long as those connections live
min|net.core.netdev_max_backlog|16384|packets waiting for a cpu on loopback and veth: one broadcast sends more than the default 1000 in a tick, and what is dropped comes again after 200 ms
min3|net.ipv4.tcp_mem|$((tcp_pages / 2)) $((tcp_pages * 3 / 4)) $tcp_pages|pages of all TCP buffers: above the second number windows shrink, above the third sends fail. A broadcast takes a page of every connection at once
min|net.ipv4.tcp_child_ehash_entries|$connections|network namespaces made from now on, as for containers, get a table of connections of their own and of this size. 0: they share the host's, which is sized at boot (thash_entries=): with four connections to each of its places a ping costs a tenth more cpu and an accept a quarter, and with sixteen a broadcast spends a quarter of its time in it
min|net.ipv4.tcp_max_orphans|262144|closed connections whose last bytes are not acknowledged yet; beyond it they are reset, and clients do not see why they were closed
range|net.ipv4.ip_local_port_range|10000 65535|ports of a host that connects: to its backend, or as a load generator from one address
is|net.ipv4.tcp_slow_start_after_idle|0|a connection that was silent between two publications would send its next 64 KiB in three round trips instead of one
is|kernel.io_uring_disabled|0|without io_uring the daemon falls back to epoll: a descriptor a connection, and a system call a send
min|net.netfilter.nf_conntrack_max|$((connections * 2))|only where connection tracking is loaded: a full table drops new clients without a word. Better still, do not track the daemon's port
is|/sys/kernel/mm/transparent_hugepage/enabled|madvise|"always" gives 2 MiB to tables that are touched here and there: memory of nobody
END
}

# The file of a key.
path_of() {
    case $1 in
        /*) echo "$root$1" ;;
        *) echo "$root/proc/sys/$(echo "$1" | tr . /)" ;;
    esac
}

# What is set, in one line. Of a choice like "always [madvise] never": the chosen one.
current_of() {
    tr -s '\t\n' '  ' <"$1" | sed 's/.*\[\(.*\)\].*/\1/; s/^ *//; s/ *$//'
}

# What should stand there: the wanted value, or where that would lower something, what is there already.
goal_of() {
    kind=$1 current=$2 value=$3
    case $kind in
        is) echo "$value" ;;
        # Numbers may be larger than the shell's: awk's are doubles, which is exact up to 2^53 and near enough above.
        min | min3)
            echo "$current $value" | awk -v n="$(echo "$value" | wc -w)" '{
                for (i = 1; i <= n; i++) printf "%s%s", ($i + 0 > $(i + n) + 0 ? $i : $(i + n)), (i < n ? " " : "\n")
            }' ;;
        range)
            echo "$current $value" | awk '{ print ($1 + 0 < $3 + 0 ? $1 : $3), ($2 + 0 > $4 + 0 ? $2 : $4) }' ;;
    esac
}

each() {
    wanted | while IFS='|' read -r kind key value reason; do
        path=$(path_of "$key")
        # A kernel without it has nothing to set: connection tracking that is not loaded, for one.
        [ -r "$path" ] || continue
        current=$(current_of "$path")
        goal=$(goal_of "$kind" "$current" "$value")
        "$1"
    done
}

check_one() {
    if [ "$current" = "$goal" ]; then
        printf 'ok     %s = %s\n' "$key" "$current"
    else
        printf 'SHORT  %s = %s, wanted %s\n       %s\n' "$key" "$current" "$goal" "$reason"
    fi
}

apply_one() {
    [ "$current" != "$goal" ] || return 0
    # The first value ever replaced is the one to go back to, however often --apply is run.
    grep -qs "^$key|" "$state" || printf '%s|%s\n' "$key" "$current" >>"$state"
    if printf '%s\n' "$goal" >"$path"; then
        printf 'set    %s = %s (was %s)\n' "$key" "$goal" "$current"
    else
        printf 'FAILED %s = %s, wanted %s\n' "$key" "$current" "$goal"
    fi
}

limit_hint() {
    limit=$(ulimit -Hn)
    if [ "$limit" != unlimited ] && [ "$limit" -lt "$files" ]; then
        printf 'note   RLIMIT_NOFILE is %s for this shell: for the daemon set LimitNOFILE=%s in its systemd unit,\n' \
            "$limit" "$files"
        printf '       or run more shards: each holds as many connections as the limit says\n'
    fi
}

# Shows what was said and fails if a line of it begins with the word.
conclude() {
    printf '%s\n' "$2"
    ! printf '%s\n' "$2" | grep -q "^$1"
}

case $action in
    list) wanted | awk -F '|' -v OFS='\t' '{ print $2, $1, $3, $4 }' ;;
    check)
        said=$(each check_one)
        limit_hint
        conclude SHORT "$said"
        ;;
    apply)
        mkdir -p "$(dirname "$state")"
        touch "$state"
        said=$(each apply_one)
        limit_hint
        conclude FAILED "${said:-nothing to set}"
        ;;
    revert)
        if [ ! -s "$state" ]; then
            echo "nothing to revert: $state is empty or absent"
            exit 0
        fi
        failed=0
        while IFS='|' read -r key value; do
            if printf '%s\n' "$value" >"$(path_of "$key")"; then
                printf 'set    %s = %s\n' "$key" "$value"
            else
                printf 'FAILED %s = %s\n' "$key" "$value"
                failed=1
            fi
        done <"$state"
        # Kept when something could not be put back, so that it can be tried again.
        [ "$failed" = 1 ] || rm -f "$state"
        exit "$failed"
        ;;
esac
