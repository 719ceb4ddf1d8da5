//! The lines of a file, or of stdin, plain or compressed.
//!
//! A line has a limit, so that a file of something else is refused before it fills memory.

use super::error::{Reason, TraceError};
use super::packed::{Packing, unpack};
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;

/// Bytes that a line may have.
const LINE_LIMIT: usize = 64 << 10;
/// The name of stdin among files.
const STDIN: &str = "-";

/// Opens the file at `path`; `-` is stdin. And what errors call it.
pub fn open(path: &Path) -> Result<(String, Box<dyn Read>), TraceError> {
    if path.as_os_str() == STDIN {
        return Ok(("stdin".to_owned(), Box::new(io::stdin())));
    }
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => Ok((name, Box::new(file))),
        Err(cause) => Err(TraceError::Open { file: name, cause }),
    }
}

/// Reads lines and knows where it is.
pub struct Lines<'r> {
    name: String,
    from: Box<dyn BufRead + 'r>,
    packing: Packing,
    line: usize,
    buffer: Vec<u8>,
}

impl<'r> Lines<'r> {
    /// The lines of `from`, which errors call `name`.
    pub fn new(name: &str, from: impl Read + 'r) -> Result<Lines<'r>, TraceError> {
        let empty = Box::new(io::empty());
        let mut lines =
            Lines { name: name.to_owned(), from: empty, packing: Packing::Plain, line: 0, buffer: Vec::new() };
        let (packing, unpacked) = unpack(from).map_err(|cause| lines.failed(cause))?;
        lines.packing = packing;
        lines.from = unpacked.map_err(|cause| lines.failed(cause))?;
        Ok(lines)
    }

    /// The next line that has anything on it, without its end, and its number.
    pub fn next_line(&mut self) -> Result<Option<(usize, &str)>, TraceError> {
        loop {
            self.buffer.clear();
            self.line += 1;
            let mut limited = (&mut self.from).take(LINE_LIMIT as u64 + 1);
            let got = limited.read_until(b'\n', &mut self.buffer);
            if got.map_err(|cause| self.failed(cause))? == 0 {
                return Ok(None);
            }
            if self.buffer.len() > LINE_LIMIT {
                return Err(self.blame(Reason::TooLong(LINE_LIMIT)));
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        match std::str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some((self.line, text.trim_ascii()))),
            Err(_) => Err(self.blame(Reason::NotUtf8)),
        }
    }

    /// The error that the present line is wrong for `reason`.
    pub fn blame(&self, reason: Reason) -> TraceError {
        self.blame_at(self.line, reason)
    }

    /// The error that an earlier line is wrong for `reason`.
    pub fn blame_at(&self, line: usize, reason: Reason) -> TraceError {
        TraceError::Line { file: self.name.clone(), line, reason }
    }

    fn failed(&self, cause: io::Error) -> TraceError {
        let (file, line) = (self.name.clone(), self.line.max(1));
        match self.packing.name() {
            Some(packing) => TraceError::Packed { file, line, packing, cause },
            None => TraceError::Read { file, line, cause },
        }
    }
}

/// What an error shows of a text that may be anything.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::packed::tests::in_each_way;

    fn all(bytes: &[u8]) -> Result<Vec<(usize, String)>, String> {
        let mut lines = Lines::new("t", bytes).map_err(|e| e.to_string())?;
        let mut out = Vec::new();
        while let Some((number, text)) = lines.next_line().map_err(|e| e.to_string())? {
            out.push((number, text.to_owned()));
        }
        Ok(out)
    }

    #[test]
    fn plain_and_compressed_files_have_the_same_lines() {
        let text = "one\n\ntwo\r\nthree";
        let want = vec![(1, "one".to_owned()), (3, "two".to_owned()), (4, "three".to_owned())];
        for (packing, bytes) in in_each_way(text) {
            assert_eq!(all(&bytes), Ok(want.clone()), "{packing:?}");
        }
        assert_eq!(all(b""), Ok(vec![]));
    }

    #[test]
    fn a_compressed_file_that_is_cut_says_how_it_is_compressed() {
        for (packing, whole) in &in_each_way("one\ntwo\n")[1..] {
            let error = all(&whole[..whole.len() - 1]).unwrap_err();
            let name = packing.name().unwrap();
            assert!(error.contains(&format!("the {name} data is damaged or cut short here")), "{error}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_with_their_line() {
        assert_eq!(all(b"one\n\xff\xfe\n").unwrap_err(), "t:2: no text: it has bytes that are not UTF-8");
        let endless = vec![b'x'; LINE_LIMIT + 1];
        assert_eq!(all(&endless).unwrap_err(), "t:1: no text: a line of more than 65536 bytes");
    }
}
