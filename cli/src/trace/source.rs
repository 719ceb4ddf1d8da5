//! The lines of a file, plain or gzipped.
//!
//! Which of the two it is tells its first bytes, not its name. A line has a
//! limit, so that a file of something else is refused before it fills memory.

use super::error::{Reason, TraceError};
use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufRead, BufReader, Read};

/// Bytes that a line may have.
const LINE_LIMIT: usize = 64 << 10;
/// What gzip files begin with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Reads lines and knows where it is.
pub struct Lines<'r> {
    name: String,
    from: Box<dyn BufRead + 'r>,
    gzip: bool,
    line: usize,
    buffer: Vec<u8>,
}

impl<'r> Lines<'r> {
    /// The lines of `from`, which errors call `name`.
    pub fn new(name: &str, from: impl Read + 'r) -> Result<Lines<'r>, TraceError> {
        let mut start = BufReader::new(from);
        let mut lines =
            Lines { name: name.to_owned(), from: Box::new(io::empty()), gzip: false, line: 0, buffer: Vec::new() };
        lines.gzip = start.fill_buf().map_err(|cause| lines.failed(cause))?.starts_with(&GZIP_MAGIC);
        lines.from = if lines.gzip { Box::new(BufReader::new(MultiGzDecoder::new(start))) } else { Box::new(start) };
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
        if self.gzip { TraceError::Gzip { file, line, cause } } else { TraceError::Read { file, line, cause } }
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
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn gzipped(text: &str) -> Vec<u8> {
        let mut to = GzEncoder::new(Vec::new(), Compression::fast());
        to.write_all(text.as_bytes()).unwrap();
        to.finish().unwrap()
    }

    fn all(bytes: &[u8]) -> Result<Vec<(usize, String)>, String> {
        let mut lines = Lines::new("t", bytes).map_err(|e| e.to_string())?;
        let mut out = Vec::new();
        while let Some((number, text)) = lines.next_line().map_err(|e| e.to_string())? {
            out.push((number, text.to_owned()));
        }
        Ok(out)
    }

    #[test]
    fn plain_and_gzipped_files_have_the_same_lines() {
        let text = "one\n\ntwo\r\nthree";
        let want = vec![(1, "one".to_owned()), (3, "two".to_owned()), (4, "three".to_owned())];
        assert_eq!(all(text.as_bytes()), Ok(want.clone()));
        assert_eq!(all(&gzipped(text)), Ok(want));
        assert_eq!(all(b""), Ok(vec![]));
    }

    #[test]
    fn a_gzip_file_cut_anywhere_is_refused() {
        let whole = gzipped("one\ntwo\n");
        for cut in 2..whole.len() {
            let error = all(&whole[..cut]).unwrap_err();
            assert!(error.contains("damaged or cut short"), "cut at {cut}: {error}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_with_their_line() {
        assert_eq!(all(b"one\n\xff\xfe\n").unwrap_err(), "t:2: no text: it has bytes that are not UTF-8");
        let endless = vec![b'x'; LINE_LIMIT + 1];
        assert_eq!(all(&endless).unwrap_err(), "t:1: no text: a line of more than 65536 bytes");
    }
}
