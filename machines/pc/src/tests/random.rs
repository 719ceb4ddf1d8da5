//! Random numbers: xorshift64*, one a user.

/// A generator.
pub struct Random(u64);

impl Random {
    /// One whose numbers depend on `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 32) as usize * end) >> 32
    }

    /// From 1 to `most`, small ones more often.
    pub fn size(&mut self, most: usize) -> usize {
        let cap = 1 + self.below(most);
        1 + self.below(cap)
    }
}
