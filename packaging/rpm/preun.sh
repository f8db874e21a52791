# $1: how many versions are left. On an upgrade the old target goes on until the new one is there.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl disable --now xblade.service xblade-metrics.socket >/dev/null 2>&1 || :
fi
