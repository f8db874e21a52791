//! xblade.
fn main() {}
