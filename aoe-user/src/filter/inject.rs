//! Frames for the filter that no wire brought: how a port proves its way in before anybody depends on it.

use std::io;
use std::sync::Arc;

use aoe_common::rules::Counter;
use aya::Ebpf;
use aya::maps::PerCpuValues;
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions};
use aya::util::nr_cpus;

use super::{Filter, FilterError, PROGRAM, program};

/// Runs a program with a live frame, as if queue 0 of this interface had received it.
pub(super) fn live_frame(
    ebpf: &mut Ebpf,
    name: &str,
    frame: &[u8],
    ifindex: u32,
) -> Result<(), ProgramError> {
    let end = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, end, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat();
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        attrs: TestRunAttrs::new().xdp_live_frames(1),
        ..TestRunOptions::default()
    };
    program(ebpf, name).test_run(options).map(drop)
}

impl Filter {
    /// Gives the program a frame as if queue 0 of interface `ifindex` had received it, and has the kernel do what it decides: a
    /// frame that is redirected is in the socket's ring when this returns, provided the socket takes frames of that interface.
    ///
    /// Works before the program is attached. Since Linux 5.18 (`BPF_F_TEST_XDP_LIVE_FRAMES`).
    pub(crate) fn inject(&mut self, frame: &[u8], ifindex: u32) -> Result<(), FilterError> {
        let run = live_frame(&mut self.ebpf, PROGRAM, frame, ifindex);
        run.map_err(|error| FilterError::Inject {
            cause: io::Error::other(error),
        })
    }

    /// Counts from zero again, for who has tried the filter out. Nothing may be under way.
    pub(crate) fn forget_counts(&mut self) -> Result<(), FilterError> {
        let failed = FilterError::map("counters");
        let cpus = nr_cpus().map_err(|(_, cause)| FilterError::Inject { cause })?;
        let zeros = PerCpuValues::try_from(vec![[0; Counter::COUNT]; cpus])
            .map_err(|cause| FilterError::Inject { cause })?;
        // Whoever reads them from elsewhere does so later on.
        let counters = Arc::get_mut(&mut self.counters.0).ok_or_else(|| FilterError::Inject {
            cause: io::Error::other("the counters are being read"),
        })?;
        counters.set(0, zeros, 0).map_err(failed)
    }
}
