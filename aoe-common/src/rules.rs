//! The types of the eBPF maps: what the user half writes for the kernel half to decide by, and what it counts.
