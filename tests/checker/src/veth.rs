//! The wire to the real target: the initiator's ends of the lab's links.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::network::{Parcel, Wire};
use lab::initiator::Initiator;
use lab::link::Lab;

/// Sends on every link from every cpu, because a frame sent from cpu N arrives on the veth's receive queue N; hears
/// every link.
#[derive(Debug)]
pub struct Veth {
    senders: Vec<Vec<Sender<Vec<u8>>>>,
    hearing: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Veth {
    /// Opens `links` links of the lab with `queues` queues each.
    ///
    /// # Errors
    /// When there are no such links.
    pub fn open(lab: &Lab, links: u32, queues: usize, replies: &Sender<Parcel>) -> Result<Veth> {
        let cpus = std::thread::available_parallelism()
            .context("counting cpus")?
            .get();
        let hearing = Arc::new(AtomicBool::new(true));
        let mut veth = Veth {
            senders: Vec::new(),
            hearing: Arc::clone(&hearing),
            threads: Vec::new(),
        };
        for link in 0..links {
            let mut senders = Vec::new();
            for queue in 0..queues {
                let (outbox, frames) = channel::<Vec<u8>>();
                let socket = lab.open(link)?;
                veth.threads.push(std::thread::spawn(move || {
                    pin(queue % cpus);
                    // A link that is down takes nothing: lost, as on any network.
                    frames.iter().for_each(|frame| drop(socket.send(&frame)));
                }));
                senders.push(outbox);
            }
            veth.senders.push(senders);
            let (socket, hearing, replies) = (lab.open(link)?, Arc::clone(&hearing), replies.clone());
            veth.threads
                .push(std::thread::spawn(move || hear(&socket, &hearing, &replies)));
        }
        Ok(veth)
    }
}

impl Wire for Veth {
    fn send(&mut self, port: usize, queue: usize, frame: &[u8]) {
        let _ = self.senders[port][queue].send(frame.to_vec());
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        self.hearing.store(false, Ordering::Relaxed);
        self.senders.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn hear(socket: &Initiator, hearing: &AtomicBool, replies: &Sender<Parcel>) {
    while hearing.load(Ordering::Relaxed) {
        if let Ok(Some(frame)) = socket.receive(Duration::from_millis(50))
            // Only replies: a query for its own address that the target sends at start is none of ours.
            && frame.len() > 14
            && frame[14] & 0x08 != 0
            && replies.send(Parcel::ToClient(frame)).is_err()
        {
            return;
        }
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    let _ = set
        .set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
}
