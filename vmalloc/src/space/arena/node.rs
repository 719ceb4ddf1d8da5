//! Nodes and words: the free runs in a range of grains.

/// The state of one grain, or the state that all grains of a node share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Free,
    Taken,
}

impl State {
    pub const fn other(self) -> State {
        match self {
            State::Free => State::Taken,
            State::Taken => State::Free,
        }
    }

    /// A word whose grains are all in this state.
    pub const fn word(self) -> u64 {
        match self {
            State::Free => 0,
            State::Taken => u64::MAX,
        }
    }
}

/// The free runs in a range of grains. Each field is the length of the range minus the length of a
/// run, so that zero means "all free".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Node {
    /// For the free run at the start.
    pub head: u32,
    /// For the free run at the end.
    pub tail: u32,
    /// For the longest free run.
    pub best: u32,
}

impl Node {
    /// All grains are free.
    pub const FREE: Node = Node { head: 0, tail: 0, best: 0 };

    /// `size` grains that are all in the same state.
    pub const fn uniform(state: State, size: u32) -> Node {
        match state {
            State::Free => Node::FREE,
            State::Taken => Node { head: size, tail: size, best: size },
        }
    }

    /// The state that all of the `size` grains share.
    pub const fn state(self, size: u32) -> Option<State> {
        match self.best {
            0 => Some(State::Free),
            best if best == size => Some(State::Taken),
            _ => None,
        }
    }

    /// `size` grains of which only the first `len` are free.
    pub const fn free_at_first(len: u32, size: u32) -> Node {
        let beyond = size - len;
        Node { head: beyond, tail: if beyond == 0 { 0 } else { size }, best: beyond }
    }

    /// The join of two adjacent nodes of `half` grains each. A run inside one half is shorter than
    /// the whole by the other half too. A run across the middle is as much shorter than the whole
    /// as its two parts are shorter than their halves, together.
    #[inline(always)]
    pub fn join(left: Node, right: Node, half: u32) -> Node {
        Node {
            head: if left.head == 0 { right.head } else { left.head + half },
            tail: if right.tail == 0 { left.tail } else { right.tail + half },
            best: (left.best.min(right.best) + half).min(left.tail + right.head),
        }
    }

    /// The grains of a word.
    pub fn of_word(word: u64) -> Node {
        Node {
            head: u64::BITS - word.trailing_zeros(),
            tail: u64::BITS - word.leading_zeros(),
            best: u64::BITS - longest_run(!word),
        }
    }
}

/// The start of the lowest run of `len` ones.
pub(super) fn lowest_run(free: u64, len: u32) -> Option<u32> {
    if len > u64::BITS {
        return None;
    }
    let (mut starts, mut have) = (free, 1);
    while have < len {
        let more = have.min(len - have);
        starts &= starts >> more;
        have += more;
    }
    (starts != 0).then(|| starts.trailing_zeros())
}

/// The length of the longest run of ones: doubles a length while there is such a run, then refines
/// it bit by bit.
fn longest_run(free: u64) -> u32 {
    let mut starts = [0; 6];
    let mut row = free;
    let mut doubled = 0;
    while row != 0 {
        if doubled == starts.len() {
            return u64::BITS;
        }
        starts[doubled] = row;
        row &= row >> (1 << doubled);
        doubled += 1;
    }
    let (mut at, mut len) = (u64::MAX, 0);
    for power in (0..doubled).rev() {
        let longer = at & (starts[power] >> len);
        if longer != 0 {
            (at, len) = (longer, len + (1 << power));
        }
    }
    len
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// The runs of ones among `bits`: where each starts, and its length.
    fn runs(bits: &[bool]) -> Vec<(u32, u32)> {
        let mut found: Vec<(u32, u32)> = Vec::new();
        for (at, _) in bits.iter().enumerate().filter(|&(_, &one)| one) {
            match found.last_mut() {
                Some((start, len)) if *start + *len == at as u32 => *len += 1,
                _ => found.push((at as u32, 1)),
            }
        }
        found
    }

    /// The node that describes `bits`; true = free.
    fn node(bits: &[bool]) -> Node {
        let size = bits.len() as u32;
        let longest = runs(bits).iter().map(|&(_, len)| len).max().unwrap_or(0);
        let head = bits.iter().take_while(|&&free| free).count() as u32;
        let tail = bits.iter().rev().take_while(|&&free| free).count() as u32;
        Node { head: size - head, tail: size - tail, best: size - longest }
    }

    fn word(bits: &[bool]) -> u64 {
        bits.iter().enumerate().fold(u64::MAX, |word, (at, &free)| word & !((free as u64) << at))
    }

    /// 64 grains in a few long runs.
    fn grains() -> impl Strategy<Value = Vec<bool>> {
        prop::collection::vec((any::<bool>(), 1usize..40), 1..8).prop_map(|runs| {
            let mut bits: Vec<bool> = runs.iter().flat_map(|&(free, len)| std::iter::repeat_n(free, len)).collect();
            bits.resize(64, runs[0].0);
            bits
        })
    }

    proptest! {
        #[test]
        fn a_word_is_summed_up_as_one_counts(bits in grains()) {
            prop_assert_eq!(Node::of_word(word(&bits)), node(&bits));
        }

        #[test]
        fn two_nodes_join_to_the_node_of_both(left in grains(), right in grains()) {
            prop_assert_eq!(Node::join(node(&left), node(&right), 64), node(&[left, right].concat()));
        }

        #[test]
        fn the_lowest_run_is_the_first_that_is_long_enough(bits in grains(), len in 1u32..70) {
            let first = runs(&bits).iter().find(|&&(_, run)| run >= len).map(|&(start, _)| start);
            prop_assert_eq!(lowest_run(!word(&bits), len), first);
        }
    }

    #[test]
    fn a_whole_word_is_one_run() {
        assert_eq!(longest_run(u64::MAX), 64);
        assert_eq!(lowest_run(u64::MAX, 64), Some(0));
        assert_eq!(Node::of_word(0), Node::FREE);
        assert_eq!(Node::of_word(u64::MAX), Node::uniform(State::Taken, 64));
        assert_eq!(Node::of_word(u64::MAX << 5), Node::free_at_first(5, 64));
        assert_eq!(Node::free_at_first(64, 64), Node::FREE);
    }
}
