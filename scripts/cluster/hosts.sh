#!/usr/bin/env bash
# Runs a command by mpirun on several "hosts" of this machine: network namespaces with addresses of their own, a host
# name and a /tmp of their own, that share one folder. Shows what no single host shows: starting over a network, a link
# that is cut, resuming after it. Needs root, iproute2 and Open MPI.
#   scripts/cluster/hosts.sh up 3          makes three hosts
#   scripts/cluster/hosts.sh run COMMAND…  runs the command on each, one rank a host, in the present folder
#   scripts/cluster/hosts.sh cut 2         takes the second host off the network; `restore 2` puts it back
#   scripts/cluster/hosts.sh down          removes them
# SHARED names the shared folder, by default /tmp/compresso_shared.
set -euo pipefail
SELF=$(realpath "${BASH_SOURCE[0]}")
readonly SELF NAME=cmp NET=10.77.0 SHARED=${SHARED:-/tmp/compresso_shared}

hosts() { ip netns list | sed -nE "s/^(${NAME}[0-9]+).*/\1/p" | sort; }

up() {
  local count=$1 i j
  mkdir -p "$SHARED"
  ip link add "$NAME-net" type bridge
  ip link set "$NAME-net" up
  for ((i = 1; i <= count; i++)); do
    mkdir -p "/etc/netns/$NAME$i"
    { echo "127.0.0.1 localhost" && for ((j = 1; j <= count; j++)); do echo "$NET.$j $NAME$j"; done; } > "/etc/netns/$NAME$i/hosts"
    ip netns add "$NAME$i"
    ip link add "$NAME-$i" type veth peer name eth0 netns "$NAME$i"
    ip link set "$NAME-$i" master "$NAME-net" up
    ip -n "$NAME$i" address add "$NET.$i/24" dev eth0
    ip -n "$NAME$i" link set eth0 up
    ip -n "$NAME$i" link set lo up
  done
}

down() {
  local host
  for host in $(hosts); do
    ip netns pids "$host" | xargs -r kill -9 2>/dev/null || true
    ip netns delete "$host"
    rm -rf "/etc/netns/$host"
  done
  ip link delete "$NAME-net" 2>/dev/null || true
}

# Enters a host, and runs words there: in its network, with its name and an empty /tmp beside the shared folder.
enter() {
  local host=$1
  shift
  # shellcheck disable=SC2016 # expanded inside
  exec ip netns exec "$host" unshare --mount --uts bash -c '
    hostname "$1"; shared=$2; shift 2
    mkdir -p /run/compresso_keep && mount --bind "$shared" /run/compresso_keep
    mount -t tmpfs none /tmp && mkdir -p "$shared" && mount --move /run/compresso_keep "$shared" 2>/dev/null ||
      mount --bind /run/compresso_keep "$shared"
    exec "$@"' enter "$host" "$SHARED" "$@"
}

# As ssh is called by mpirun: options, the host, then words of a shell command.
agent() {
  while [[ ${1:-} == -* ]]; do shift; done
  local host=$1
  shift
  enter "$host" bash -c "$*"
}

run() {
  local list
  list=$(hosts | paste -sd,)
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 SHARED
  enter "$NAME""1" mpirun --host "$list" --prtemca plm_ssh_agent "$SELF agent" --prtemca prte_if_include "$NET.0/24" \
    --mca mpi_yield_when_idle 1 --mca btl self,tcp --mca btl_tcp_if_include "$NET.0/24" "$@"
}

case ${1:-} in
  up) up "${2:-3}" ;;
  down) down ;;
  run | agent | enter) "$@" ;;
  cut) ip link set "$NAME-$2" down ;;
  restore) ip link set "$NAME-$2" up ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$SELF"; exit 2 ;;
esac
