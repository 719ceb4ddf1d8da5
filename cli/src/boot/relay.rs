//! The guest's bytes on their way to the terminal, without its records.
//!
//! A line that may be a record is held back until it is whole; everything
//! else passes at once, half lines (a prompt, an echo) too.

use crate::qemu::record::Record;

/// Looks at bytes as they pass.
#[derive(Default)]
pub struct Relay {
    /// What there is of a line that may be a record.
    held: Vec<u8>,
    /// Whether the line has begun, with something that passes.
    within: bool,
}

impl Relay {
    /// Puts those of `bytes`, and of what was held back, that are for people
    /// into `out`.
    pub fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            if self.within || (self.held.is_empty() && byte != b'@') {
                out.push(byte);
                self.within = byte != b'\n';
            } else {
                self.held.push(byte);
                if byte == b'\n' {
                    self.flush(out);
                }
            }
        }
    }

    /// Lets go what was held back, unless it is a record.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.held);
        if Record::parse(String::from_utf8_lossy(&line).trim_end()).is_none() {
            out.extend(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_left_out_and_all_else_passes_at_once() {
        let mut relay = Relay::default();
        let mut passed = |bytes: &[u8]| {
            let mut out = Vec::new();
            relay.pass(bytes, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(passed(b"> "), "> ");
        assert_eq!(passed(b"@a\r\n@case a="), "@a\r\n");
        assert_eq!(passed(b"1\r"), "");
        assert_eq!(passed(b"\nafter\n\n@no record\n"), "after\n\n@no record\n");
        assert_eq!(passed(b"@held"), "");
        let mut rest = Vec::new();
        relay.pass(b" back", &mut rest);
        relay.flush(&mut rest);
        assert_eq!(rest, b"@held back");
    }
}
