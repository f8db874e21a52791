//! `xblade state`
use super::args::StateAction;
pub(super) fn run(_action: StateAction) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
