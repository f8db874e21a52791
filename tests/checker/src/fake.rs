//! A small target in this process, right unless told otherwise: it shows that the checker sees what it must see.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use aoe_common::Mac;

use super::network::{Parcel, Wire};
use lab::frame::{Address, ata};
use lab::image::SECTOR;

/// Where the fake target answers.
pub const ADDRESS: Address = Address::new(7, 3);

/// Ways to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// None.
    Honest,
    /// Replies to a write and does it a moment later.
    AcknowledgesBeforeWriting,
    /// Answers what looks like a retransmitted read from its memory of the first answer.
    AnswersStaleDuplicates,
    /// A queue answers a read from what it fetched while it did the request before.
    ReordersReads,
    /// Writes again, late, what it has written and acknowledged.
    ReordersWrites,
    /// Forgets at a restart what it acknowledged last.
    LosesWritesAtRestart,
    /// Writes a sector in two steps with others reading in between.
    TearsSectors,
}

/// The address of a port of the fake target.
pub fn mac(port: usize) -> Mac {
    Mac([2, 0xfa, 0, 0, 0, port as u8 + 1])
}

type Image = Vec<[u8; SECTOR]>;

/// The target: one thread a queue, one image.
#[derive(Debug)]
pub struct Fake {
    queues: Vec<Vec<Sender<Job>>>,
    disk: Arc<Mutex<Disk>>,
}

enum Job {
    Frame(Vec<u8>),
    Restart,
}

#[derive(Debug)]
struct Disk {
    image: Image,
    /// The image as it was before the last few writes.
    older: Image,
    writes: u64,
    restarts: u64,
}

impl Fake {
    /// Starts the threads.
    pub fn start(
        mutant: Mutant,
        sectors: usize,
        ports: usize,
        queues: usize,
        replies: &Sender<Parcel>,
    ) -> Fake {
        let image = vec![[0; SECTOR]; sectors];
        let disk = Arc::new(Mutex::new(Disk {
            older: image.clone(),
            image,
            writes: 0,
            restarts: 0,
        }));
        let start = |port| {
            let (jobs, inbox) = channel();
            let queue = Queue {
                mutant,
                port,
                disk: Arc::clone(&disk),
                replies: replies.clone(),
                memory: Memory::default(),
            };
            std::thread::spawn(move || queue.run(&inbox));
            jobs
        };
        let queues = (0..ports)
            .map(|port| (0..queues).map(|_| start(port)).collect())
            .collect();
        Fake { queues, disk }
    }

    /// A handle that restarts it from another thread.
    pub fn restarter(&self, mutant: Mutant) -> impl Fn() + Send + use<> {
        let (queues, disk) = (self.queues.clone(), Arc::clone(&self.disk));
        move || {
            let mut disk = lock(&disk);
            disk.restarts += 1;
            if mutant == Mutant::LosesWritesAtRestart {
                disk.image = disk.older.clone();
            }
            drop(disk);
            queues
                .iter()
                .flatten()
                .for_each(|queue| drop(queue.send(Job::Restart)));
        }
    }
}

impl Wire for Fake {
    fn send(&mut self, port: usize, queue: usize, frame: &[u8]) {
        let _ = self.queues[port][queue].send(Job::Frame(frame.to_vec()));
    }
}

/// What a queue remembers to be wrong with.
#[derive(Default)]
struct Memory {
    answers: HashMap<(Mac, u64, u8), (Instant, Vec<u8>)>,
    fetched: Image,
    again: Vec<(u64, Vec<u8>)>,
}

struct Queue {
    mutant: Mutant,
    port: usize,
    disk: Arc<Mutex<Disk>>,
    replies: Sender<Parcel>,
    memory: Memory,
}

impl Queue {
    fn run(mut self, inbox: &Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
            match job {
                // What was in the queues of a process that died is gone.
                Job::Restart => {
                    while inbox.try_recv().is_ok() {}
                    self.memory = Memory::default();
                }
                Job::Frame(frame) => self.serve(&frame),
            }
        }
    }

    fn serve(&mut self, frame: &[u8]) {
        if frame[19] == 1 {
            return self.reply(frame, &[]);
        }
        let (count, command) = (frame[26], frame[27]);
        let lba = u64::from_le_bytes([
            frame[28], frame[29], frame[30], frame[31], frame[32], frame[33], 0, 0,
        ]);
        match command {
            ata::READ_EXT => self.read(frame, lba, count),
            ata::WRITE_EXT => self.write(frame, lba),
            _ => {}
        }
    }

    fn read(&mut self, frame: &[u8], lba: u64, count: u8) {
        let range = lba as usize..lba as usize + usize::from(count);
        let now = lock(&self.disk).image.clone();
        let mut data = now[range.clone()].as_flattened().to_vec();
        match self.mutant {
            Mutant::AnswersStaleDuplicates => {
                let key = (lab::frame::mac(&frame[6..12]), lba, count);
                match self.memory.answers.get(&key) {
                    Some((at, answer)) if at.elapsed() < Duration::from_millis(200) => {
                        data.clone_from(answer);
                    }
                    _ => drop(self.memory.answers.insert(key, (Instant::now(), data.clone()))),
                }
            }
            Mutant::ReordersReads => {
                if !self.memory.fetched.is_empty() {
                    data = self.memory.fetched[range].as_flattened().to_vec();
                }
                self.memory.fetched = now;
            }
            _ => {}
        }
        self.reply(frame, &data);
    }

    fn write(&mut self, frame: &[u8], lba: u64) {
        let data = &frame[36..];
        match self.mutant {
            Mutant::AcknowledgesBeforeWriting => {
                self.reply(frame, &[]);
                std::thread::sleep(Duration::from_millis(1));
                self.store(lba, data);
            }
            Mutant::ReordersWrites => {
                self.store(lba, data);
                self.reply(frame, &[]);
                if let Some((lba, data)) = self.memory.again.pop() {
                    self.store(lba, &data);
                } else {
                    self.memory.again.push((lba, data.to_vec()));
                }
            }
            Mutant::TearsSectors => {
                let half = SECTOR / 2;
                let at = lba as usize;
                lock(&self.disk).image[at][..half].copy_from_slice(&data[..half]);
                std::thread::sleep(Duration::from_micros(200));
                self.store(lba, data);
                self.reply(frame, &[]);
            }
            _ => {
                self.store(lba, data);
                self.reply(frame, &[]);
            }
        }
    }

    fn store(&mut self, lba: u64, data: &[u8]) {
        let mut disk = lock(&self.disk);
        disk.writes += 1;
        if disk.writes.is_multiple_of(8) {
            disk.older = disk.image.clone();
        }
        let at = lba as usize;
        disk.image[at..at + data.len() / SECTOR]
            .as_flattened_mut()
            .copy_from_slice(data);
    }

    fn reply(&self, request: &[u8], data: &[u8]) {
        let mut frame = request[..36.min(request.len())].to_vec();
        frame[..6].copy_from_slice(&request[6..12]);
        frame[6..12].copy_from_slice(&mac(self.port).0);
        frame[14] |= 0x08;
        if frame[19] == 0 {
            (frame[25], frame[26], frame[27]) = (0, 0, 0x40);
        }
        frame.extend(data);
        frame.resize(frame.len().max(60), 0);
        let _ = self.replies.send(Parcel::ToClient(frame));
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().expect("no queue panics")
}
