//! The areas of a file, one after the other, in memory for one of them.

use super::area::{Area, Draft};
use super::line::{Line, classify, rejoined};
use crate::trace::error::{Reason, TraceError};
use crate::trace::source::{Lines, shortened};
use std::io::Read;

/// Bytes of a line that may have been broken in the middle of a word.
const LONGEST: usize = 1 << 10;

/// Reads areas. A line is handed out when the next one begins, since a mailer may have broken it.
pub struct Areas<'r> {
    lines: Lines<'r>,
    begun: Option<Begun>,
}

/// An area that was begun.
struct Begun {
    line: usize,
    text: String,
    draft: Draft,
    /// A later line that is no more of the area by itself. It is one that a terminal has
    /// broken in a word, if the lines that follow make it whole.
    odd: Option<(usize, String)>,
}

impl Begun {
    /// Takes `rest`, which stands on its own `line`; false if nothing that follows can make the area whole.
    fn go_on(&mut self, line: usize, rest: &str) -> bool {
        if self.odd.is_none() && self.draft.take_rest(rest) {
            self.text.push(' ');
            self.text.push_str(rest);
            return true;
        }
        self.text.push_str(rest);
        match rejoined(&self.text) {
            Some(draft) => (self.draft, self.odd) = (draft, None),
            None => drop(self.odd.get_or_insert_with(|| (line, rest.to_owned()))),
        }
        self.odd.is_none() || self.text.len() <= LONGEST
    }
}

impl<'r> Areas<'r> {
    /// The areas of `from`, which errors call `name`.
    pub fn new(name: &str, from: impl Read + 'r) -> Result<Areas<'r>, TraceError> {
        Ok(Areas { lines: Lines::new(name, from)?, begun: None })
    }

    /// The next area.
    fn next_area(&mut self) -> Result<Option<Area>, TraceError> {
        while let Some((line, text)) = self.lines.next_line()? {
            match classify(text) {
                Ok(Line::Area(draft)) => {
                    let begun = Begun { line, text: text.to_owned(), draft, odd: None };
                    if let Some(before) = self.begun.replace(begun) {
                        return self.finish(before).map(Some);
                    }
                }
                Ok(Line::Around) => {}
                Ok(Line::Other(rest)) => {
                    let none = Reason::NoListing(shortened(text));
                    let Some(begun) = &mut self.begun else { return Err(self.lines.blame(none)) };
                    if !begun.go_on(line, rest) {
                        break;
                    }
                }
                Err(reason) => return Err(self.lines.blame(reason)),
            }
        }
        self.begun.take().map(|last| self.finish(last)).transpose()
    }

    fn finish(&self, Begun { line, draft, odd, .. }: Begun) -> Result<Area, TraceError> {
        match odd {
            Some((line, text)) => Err(self.lines.blame_at(line, Reason::NoListing(shortened(&text)))),
            None => draft.finish().map_err(|reason| self.lines.blame_at(line, reason)),
        }
    }
}

impl Iterator for Areas<'_> {
    type Item = Result<Area, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_area().transpose()
    }
}
