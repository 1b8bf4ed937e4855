# Ends what a test process started once that process is gone, however it went: standard input is a pipe from
# it, and the pipe closes with it. Lines: `pid ID START`, `box NAME` for a container, `gone …` to forget one.
# The start time guards against an id that was given to a process of somebody else meanwhile.
trap '' HUP INT QUIT TERM
folder=$1
docker=$2
list=

start_of() {
  if [ ! -e /proc/self/stat ]; then
    ps -o lstart= -p "$1" | tr -d ' \n'
    return 0
  fi
  read -r stat 2>/dev/null <"/proc/$1/stat" || return 0
  # The name in parentheses may hold anything; the start time is the twentieth field after it.
  set -f
  set -- ${stat##*) }
  echo "${20}"
}

while read -r kind id start; do
  case $kind in
    pid | box) list="$list $kind:$id:$start" ;;
    gone)
      new=
      for entry in $list; do
        case $entry in *:"$id":*) ;; *) new="$new $entry" ;; esac
      done
      list=$new
      ;;
  esac
done

ids=
for entry in $list; do
  rest=${entry#*:}
  id=${rest%%:*}
  start=${rest#*:}
  case $entry in
    pid:*)
      if [ -n "$start" ] && [ "$(start_of "$id")" = "$start" ]; then
        kill -KILL "$id" 2>/dev/null && ids="$ids $id"
      fi
      ;;
    box:*) "$docker" rm -f "$id" >/dev/null 2>&1 ;;
  esac
done

# Killed processes may still be writing for a moment.
tries=0
while [ $tries -lt 50 ]; do
  alive=
  for id in $ids; do kill -0 "$id" 2>/dev/null && alive=1; done
  [ -z "$alive" ] && break
  sleep 0.1
  tries=$((tries + 1))
done
[ -n "$folder" ] && rm -rf -- "$folder"
