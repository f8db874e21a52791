//! `xblade create`: makes an image file.
use super::args::CreateArgs;
pub(super) fn run(_args: &CreateArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
