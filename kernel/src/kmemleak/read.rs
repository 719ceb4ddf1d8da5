//! Reading memory that others may free meanwhile, and its checksum.

use super::object::Place;
use crate::host::Host;
use crate::kernel::Kernel;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;

/// Bytes that a step of a scan reads.
pub const CHUNK: usize = 4096;
/// Words that are read before they are looked up.
pub(super) const WORDS: usize = 64;
/// Their bytes.
pub(super) const PIECE: usize = WORDS * size_of::<usize>();

/// A piece of memory.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    words: [usize; WORDS],
    bytes: usize,
}

impl Piece {
    pub(super) const EMPTY: Piece = Piece { words: [0; WORDS], bytes: 0 };

    /// Its words, without an end that is none.
    pub(super) fn words(&self) -> &[usize] {
        &self.words[..self.bytes / size_of::<usize>()]
    }

    /// Its bytes, in the order of memory.
    pub(super) fn bytes(&self) -> impl Iterator<Item = u8> {
        self.words.iter().flat_map(|word| word.to_ne_bytes()).take(self.bytes)
    }

    /// Fills it with `bytes` bytes of `from`, byte by byte where they are not words.
    ///
    /// # Safety
    /// The bytes can be read. What others write meanwhile may be read torn.
    pub(super) unsafe fn fill(&mut self, from: NonNull<u8>, bytes: usize) {
        self.bytes = bytes.min(PIECE);
        let aligned = from.cast::<usize>();
        for (n, word) in self.words.iter_mut().enumerate().take(self.bytes.div_ceil(size_of::<usize>())) {
            let left = self.bytes - n * size_of::<usize>();
            if left >= size_of::<usize>() && aligned.is_aligned() {
                // SAFETY: the caller's promise, for this word.
                *word = unsafe { aligned.add(n).read_volatile() };
                continue;
            }
            let mut read = [0; size_of::<usize>()];
            for (i, byte) in read.iter_mut().enumerate().take(left) {
                // SAFETY: the caller's promise, for this byte.
                *byte = unsafe { from.add(n * size_of::<usize>() + i).read_volatile() };
            }
            *word = usize::from_ne_bytes(read);
        }
    }
}

/// A pointer to bytes that are read where they are.
pub(super) fn direct(at: usize) -> Option<NonNull<u8>> {
    NonNull::new(with_exposed_provenance_mut(at))
}

/// How many of `bytes` bytes from `at` on a piece can have: none beyond a page.
pub(super) fn piece_of(at: usize, bytes: usize) -> usize {
    bytes.min(PIECE).min(PAGE_SIZE - at % PAGE_SIZE)
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Reads a piece of an area; empty where nothing is bound, or nothing shows it.
    pub(super) fn read_piece(&self, at: usize, bytes: usize) -> Piece {
        let mut piece = Piece::EMPTY;
        let Some(frame) = self.vm.hold_frame(at) else { return piece };
        let read = self.with_bytes(frame, |page| {
            // SAFETY: the frame is held, and the piece lies in it.
            unsafe { piece.fill(page.add(at % PAGE_SIZE), piece_of(at, bytes)) }
        });
        self.give_frame(frame);
        if read.is_ok() { piece } else { Piece::EMPTY }
    }

    /// Reads a piece of memory; the caller knows that what is read in place lives.
    ///
    /// # Safety
    /// Y8, for memory that is read where it is.
    pub(super) unsafe fn read_at(&self, place: Place, at: usize, bytes: usize) -> Piece {
        let mut piece = Piece::EMPTY;
        match (place, direct(at)) {
            (Place::Area, _) => return self.read_piece(at, bytes),
            // SAFETY: the caller's promise.
            (Place::Direct, Some(from)) => unsafe { piece.fill(from, piece_of(at, bytes)) },
            (Place::Direct, None) => (),
        }
        piece
    }
}

/// CRC-32 of bytes behind those with the sum `crc`, by half bytes, beginning at 0 and not inverted:
/// that of zeros is 0.
pub(super) fn crc32(crc: u32, bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(crc, |crc, byte| {
        let crc = crc ^ byte as u32;
        let crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
        (crc >> 4) ^ TABLE[(crc & 15) as usize]
    })
}

/// The remainders of half bytes, by the reversed polynomial of IEEE 802.3.
const TABLE: [u32; 16] = {
    let mut table = [0; 16];
    let mut n = 0;
    while n < 16 {
        let (mut rest, mut bit) = (n as u32, 0);
        while bit < 4 {
            rest = (rest >> 1) ^ ((rest & 1) * 0xedb8_8320);
            bit += 1;
        }
        table[n] = rest;
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32_by_its_known_value() {
        // The usual form inverts before and after.
        assert_eq!(!crc32(!0, b"123456789".iter().copied()), 0xcbf4_3926);
        assert_eq!(crc32(0, [0; 100].into_iter()), 0);
        let whole = crc32(0, b"in two parts".iter().copied());
        assert_eq!(crc32(crc32(0, b"in two".iter().copied()), b" parts".iter().copied()), whole);
    }
}
