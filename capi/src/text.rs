//! Text in buffers of C.

use std::fmt::{self, Write};

/// Text in a buffer, as far as it has room. It counts the bytes that there would be.
pub struct Cut<'b> {
    room: &'b mut [u8],
    used: usize,
}

impl<'b> Cut<'b> {
    /// Text in `room`, which may be empty.
    pub fn new(room: &'b mut [u8]) -> Cut<'b> {
        Cut { room, used: 0 }
    }

    /// Ends the text with a zero, and returns the bytes that the whole text has without it.
    pub fn end(self) -> usize {
        let end = self.used.min(self.room.len().saturating_sub(1));
        if let Some(byte) = self.room.get_mut(end) {
            *byte = 0;
        }
        self.used
    }
}

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = self.room.get_mut(self.used..).unwrap_or_default();
        let fits = free.len().min(text.len());
        free[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.used += text.len();
        Ok(())
    }
}

/// Writes `what` into `room`, and returns the bytes that it has in all.
pub fn write(room: &mut [u8], what: impl fmt::Display) -> usize {
    let mut cut = Cut::new(room);
    // What does not fit is left out, so nothing fails.
    let _ = write!(cut, "{what}");
    cut.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_is_cut_and_ends() {
        let mut room = [b'x'; 5];
        assert_eq!(write(&mut room, format_args!("ab{}", "cdefg")), 7);
        assert_eq!(&room, b"abcd\0");
        assert_eq!(write(&mut [], "abc"), 3);
    }
}
