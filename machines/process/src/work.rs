//! What a thread of a program does that an allocator sees: it allocates, grows, clears, frees, and
//! allocates once more at its end.

use std::cell::Cell;
use std::collections::BTreeMap;

/// Allocates at the end of its thread.
struct AtEnd(Cell<Vec<String>>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        let mut all = self.0.take();
        all.extend((0..20).map(|n| format!("{n} at the end")));
        assert!(all.concat().ends_with("19 at the end"));
    }
}

thread_local! {
    static AT_END: AtEnd = const { AtEnd(Cell::new(Vec::new())) };
}

/// Returns 490 where every byte was right. `mark` is not 0.
pub fn work(mark: usize) -> usize {
    AT_END.with(|end| end.0.set(vec![format!("thread {mark}")]));
    let map: BTreeMap<usize, String> = (0..200).map(|n| (n * mark, n.to_string())).collect();
    let mut all: Vec<u8> = Vec::new();
    map.values().for_each(|text| all.extend(text.bytes()));
    let zeros = vec![0u64; 1000];
    all.len() + zeros.iter().sum::<u64>() as usize
}
