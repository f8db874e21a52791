# A target that runs is restarted on an upgrade, which initiators take for a short wait. What was configured and /var/lib/xblade stay.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload >/dev/null 2>&1 || :
    if [ "$1" -ge 1 ]; then
        systemctl try-restart xblade.service >/dev/null 2>&1 || :
    fi
fi
