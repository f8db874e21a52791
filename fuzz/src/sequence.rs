//! How the bytes of one input are read as a sequence of frames. Every input means something, so that a fuzzer wastes none.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 1 | 0: MTU 1500; else MTU 9000 |
//! | 1 | where frames are cut into pieces |
//! | 1 | 0: frames enough; n: the pool has n − 1 |
//! | then, for each frame, 1 | how the store behaves ([`Step`]) |
//! | 2 | the frame's length, little-endian; what is there counts |
//! | length | the frame |

use engine::FaultKind;
use engine::testing::store::StoreMode;

/// An input.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// The first three bytes.
    pub settings: [u8; 3],
    /// Then what happens, in order.
    pub steps: Vec<Step>,
}

/// One frame, and what the store does about it: bits 0–1 mode, 2–3 kind of fault, 4–5 what ends before the frame comes,
/// 6–7 which of the operations that were put off.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// The bits above.
    pub control: u8,
    /// The frame as received.
    pub frame: Vec<u8>,
}

impl Sequence {
    /// The sequence that any bytes are.
    pub(crate) fn decode(data: &[u8]) -> Sequence {
        let mut sequence = Sequence::default();
        let Some((settings, mut rest)) = data.split_first_chunk() else {
            return sequence;
        };
        sequence.settings = *settings;
        while let Some((&[control, low, high], after)) = rest.split_first_chunk() {
            let len = usize::from(u16::from_le_bytes([low, high])).min(after.len());
            let (frame, after) = after.split_at(len);
            sequence.steps.push(Step {
                control,
                frame: frame.to_vec(),
            });
            rest = after;
        }
        sequence
    }

    /// The bytes that are this sequence.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.settings.to_vec();
        for Step { control, frame } in &self.steps {
            let len = u16::try_from(frame.len()).expect("frames are shorter than 64 KiB");
            bytes.push(*control);
            bytes.extend(len.to_le_bytes());
            bytes.extend(frame);
        }
        bytes
    }

    pub(crate) fn mtu_bytes(&self) -> u32 {
        if self.settings[0] == 0 { 1500 } else { 9000 }
    }

    /// A frame of the MTU lies in at most 16 pieces.
    pub(crate) fn piece_bytes(&self) -> usize {
        let least = if self.settings[0] == 0 { 100 } else { 1024 };
        least + 4 * usize::from(self.settings[1])
    }

    pub(crate) fn pool(&self) -> usize {
        usize::from(self.settings[2]).checked_sub(1).unwrap_or(usize::MAX)
    }

    /// As much of a frame as a link of this MTU can carry: header and two VLAN tags come on top.
    pub(crate) fn fit(&self, frame: &[u8]) -> Vec<u8> {
        let most = self.mtu_bytes() as usize + 14 + 8;
        frame[..frame.len().min(most)].to_vec()
    }
}

impl Step {
    pub(crate) fn mode(&self) -> StoreMode {
        match self.control & 3 {
            0 | 1 => StoreMode::Prompt,
            2 => StoreMode::Defer,
            _ => StoreMode::Fail(
                self.fault(),
                u64::from(self.frame.last().copied().unwrap_or(0)) % 128,
            ),
        }
    }

    /// The operation that ends before the frame comes, and how.
    pub(crate) fn finish(&self) -> Option<(usize, Option<FaultKind>)> {
        let which = usize::from(self.control >> 6);
        match self.control >> 4 & 3 {
            0 | 1 => None,
            2 => Some((which, None)),
            _ => Some((which, Some(self.fault()))),
        }
    }

    fn fault(&self) -> FaultKind {
        match self.control >> 2 & 3 {
            0 => FaultKind::Gone,
            1 => FaultKind::Read,
            _ => FaultKind::Write,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let step = |control, len: usize| Step {
            control,
            frame: vec![control; len],
        };
        let sequence = Sequence {
            settings: [0, 7, 1],
            steps: vec![step(0, 60), step(0xff, 0), step(2, 1500)],
        };
        assert_eq!(Sequence::decode(&sequence.encode()), sequence);
    }

    #[test]
    fn a_length_beyond_the_end_means_the_rest() {
        let sequence = Sequence::decode(&[0, 0, 0, 2, 0xff, 0xff, 1, 2, 3]);
        assert_eq!(sequence.steps.len(), 1);
        assert_eq!(sequence.steps[0].frame, [1, 2, 3]);
        assert_eq!(Sequence::decode(&[1, 2]), Sequence::default());
    }
}
