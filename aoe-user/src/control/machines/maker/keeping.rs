//! Copies that stay over boots, and copies that begin anew because their machines have been silent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::super::content::Content;
use super::super::naming::DiskName;
use super::{Maker, SHORT_LIMIT};
use crate::config::{Overlay, OverlayReset};

/// At most this long between two looks at who is silent.
const LOOK_MAX: Duration = Duration::from_secs(60);

impl Maker {
    /// Has a volatile copy stay when its machine boots, or not any more.
    pub(super) fn pin(&mut self, name: &DiskName, pinned: bool) -> Result<()> {
        let address = self.address();
        let Some(instance) = self.instance(name) else {
            bail!("{address}: {name} has no copy that is open");
        };
        if instance.content.kind() == Overlay::Persistent {
            bail!("{address}: the copy of {name} is persistent: it stays as it is when the machine boots");
        }
        let files = self.copies.files(name);
        let noted = match &instance.content {
            Content::Copy(store) => store.set_pinned(&files, pinned).map_err(Into::into),
            Content::Clone(clone) => {
                let clone = Arc::clone(clone);
                self.copies
                    .about(&name.to_string(), move || Ok(clone.set_pinned(pinned)?))
            }
            Content::Image(_) => bail!("{address}: {name} has no copy: it has the image itself"),
        };
        noted.with_context(|| format!("{address}: the copy of {name}: cannot be written"))?;
        let what = if pinned { "stays" } else { "begins anew" };
        tracing::info!("{address}: by the operator, the copy of {name} {what} when its machine boots");
        Ok(())
    }

    /// How long after a machine's last request its copy goes; `None`: it does not.
    fn idle_limit(&self) -> Option<Duration> {
        match self.start.settings.config.overlay_reset {
            OverlayReset::Idle(limit) => Some(limit),
            OverlayReset::Boot | OverlayReset::Never => None,
        }
    }

    /// When to look again for machines that are silent.
    pub(super) fn next_look(&self) -> Option<Duration> {
        let limit = self.idle_limit()?;
        Some((limit / 4).clamp(Duration::from_millis(10), LOOK_MAX))
    }

    /// Takes the copies of machines away that have been silent for so long. They get new ones when they ask again.
    pub(super) fn discard_idle(&mut self) {
        let Some(limit) = self.idle_limit() else { return };
        if self.shared.table.read().paused {
            // Nobody is heard then, who may be at work all the same.
            return;
        }
        let names: Vec<DiskName> = self.shared.disks.lock().keys().cloned().collect();
        for name in names {
            if !self.is_idle(&name, limit) {
                continue;
            }
            // Whoever asks from here on gets no disk; who had asked before has been noted.
            self.shared.table.write().remove(&name);
            if !self.is_idle(&name, limit) {
                self.enter(&name);
                continue;
            }
            match self.discard(&name, SHORT_LIMIT) {
                Ok(()) => {
                    self.forget_disk(&name);
                    tracing::info!(
                        "{}: {name} has been silent for {}, its disk begins anew",
                        self.address(),
                        humantime::format_duration(limit)
                    );
                }
                Err(error) => {
                    self.enter(&name);
                    self.failed(&name, &error);
                }
            }
        }
    }

    /// Whether a copy goes with its machine's silence, and that is long enough.
    fn is_idle(&self, name: &DiskName, limit: Duration) -> bool {
        let Some(instance) = self.instance(name) else {
            return false;
        };
        if matches!(instance.content, Content::Image(_)) {
            return false;
        }
        let stays = instance.content.stays() || self.leaving.contains(name);
        !stays && instance.export.in_flight() == 0 && instance.heard.silence(Instant::now()) >= limit
    }
}
