# The target's user. Members of its group may read the control socket (`xblade status`).
getent group xblade >/dev/null || groupadd --system xblade
getent passwd xblade >/dev/null ||
    useradd --system --gid xblade --home-dir /var/lib/xblade --no-create-home --shell /usr/sbin/nologin xblade
