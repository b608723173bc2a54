# What a machine is and has, before anything of Skulk's is changed on it. POSIX sh: there may be no Python here.
# Prints key=value lines that skulk.core.preflight reads; changes nothing. As root it also looks at what an earlier run
# left. Set before it: ports, program_dir, config_dir, state_dir (the last two may be empty: then by system).
say() { printf '%s=%s\n' "$1" "$2"; }
PATH=$PATH:/usr/sbin:/sbin:/opt/homebrew/bin:/usr/local/bin
say probe 1
system=$(uname -s)
say system "$system"
say machine "$(uname -m)"
say bits "$(getconf LONG_BIT 2>/dev/null)"
say epoch "$(date +%s)"
say user "$(id -un)"
say group "$(id -gn)"
if [ "$system" = Darwin ]; then
  [ -n "$config_dir" ] || config_dir='/Library/Application Support/Skulk'
  [ -n "$state_dir" ] || state_dir='/Library/Application Support/Skulk/state'
  say distribution "$(sw_vers -productVersion 2>/dev/null)"
  if launchctl print system/dev.skulk.node >/dev/null 2>&1; then say service active
  elif [ -e /Library/LaunchDaemons/dev.skulk.node.plist ]; then say service inactive
  else say service absent; fi
else
  [ -n "$config_dir" ] || config_dir=/etc/skulk
  [ -n "$state_dir" ] || state_dir=/var/lib/skulk
  say distribution "$(. /etc/os-release 2>/dev/null && echo "$ID $VERSION_ID")"
  say family "$(. /etc/os-release 2>/dev/null && echo "${ID_LIKE:-$ID}")"
  if libc=$(getconf GNU_LIBC_VERSION 2>/dev/null); then say libc "$libc"
  elif ldd --version 2>&1 | grep -qi musl; then say libc musl; fi
  if [ -d /run/systemd/system ]; then say systemd "$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"; fi
  if systemctl is-active --quiet skulk-node 2>/dev/null; then say service active
  elif [ -e /etc/systemd/system/skulk-node.service ]; then say service inactive
  else say service absent; fi
  if [ -n "$(ls /var/lib/dpkg/updates 2>/dev/null)" ]; then say dpkg interrupted; fi
fi
# On a Mac without developer tools git and python3 are there, and do nothing but open a window that asks for them.
tools=yes
if [ "$system" = Darwin ] && ! xcode-select -p >/dev/null 2>&1; then tools=no; fi
asks() { [ $tools = no ] && [ "$(command -v "$1")" = "/usr/bin/$1" ]; }
if ! asks git && git --version >/dev/null 2>&1; then say git yes; fi
if [ -x /opt/homebrew/bin/brew ]; then say brew /opt/homebrew/bin/brew; fi
for python in python3 python3.14 python3.13 python3.12 python3.11; do
  asks "$python" && continue
  found=$("$python" -c 'import sys; print("%d.%d.%d %s" % (sys.version_info[:3] + (sys.executable,)))' 2>/dev/null) || continue
  say python "$found"
done
say program_dir "$program_dir"
say state_dir "$state_dir"
for directory in "$program_dir" "$state_dir"; do
  place=$directory
  while [ ! -d "$place" ]; do place=$(dirname "$place"); done
  say free "$(df -Pk "$place" | awk 'NR == 2 { print $4 }') $directory"
done
for port in $ports; do
  if [ "$system" = Darwin ]; then
    netstat -an -p tcp 2>/dev/null |
      awk -v port="[.]$port\$" '$6 == "LISTEN" && $4 ~ port { found = 1 } END { exit !found }' && say listen "$port"
  else
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
      awk -v port="$(printf ':%04X' "$port")" '$4 == "0A" && substr($2, length($2) - 4) == port { found = 1 } END { exit !found }' &&
      say listen "$port"
  fi
done
if [ "$(id -u)" = 0 ]; then
  say root yes
  if [ -r "$config_dir/node.toml" ]; then
    say node_name "$(sed -n 's/^name *= *"\(.*\)"$/\1/p' "$config_dir/node.toml" | head -n 1)"
  fi
  for file in "$state_dir"/planes/*; do
    case $file in
    */ca.pem | */\*) ;;
    *.pem) say certificate "$(tr '\n' '|' <"$file")" ;;
    *.csr) [ ! -e "${file%.csr}.key" ] || say request "$(tr '\n' '|' <"$file")" ;;
    esac
  done
  say ssh_host_key "$(cat /etc/ssh/ssh_host_ed25519_key.pub 2>/dev/null)"
  for release in "$program_dir"/releases/*/; do
    [ -d "$release" ] || continue
    if [ -e "$release/release.json" ]; then say release "$(basename "$release")"
    else say unfinished "$(basename "$release")"; fi
  done
  say current "$(basename "$(readlink "$program_dir/current")" 2>/dev/null)"
  say previous "$(basename "$(readlink "$program_dir/previous")" 2>/dev/null)"
  say uv "$("$program_dir/uv/bin/uv" --version 2>/dev/null | sed 's/^uv \([^ ]*\).*/\1/')"
fi
exit 0
