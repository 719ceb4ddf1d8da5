//! The areas of a file, one after the other, in memory for one of them.

use super::area::{Area, Draft};
use super::line::{Line, classify};
use crate::trace::error::{Reason, TraceError};
use crate::trace::source::{Lines, shortened};
use std::io::Read;

/// Reads areas. A line is handed out when the next one begins, since a mailer may have broken it.
pub struct Areas<'r> {
    lines: Lines<'r>,
    /// The area that was begun, and its line.
    begun: Option<(usize, Draft)>,
}

impl<'r> Areas<'r> {
    /// The areas of `from`, which errors call `name`.
    pub fn new(name: &str, from: impl Read + 'r) -> Result<Areas<'r>, TraceError> {
        Ok(Areas { lines: Lines::new(name, from)?, begun: None })
    }

    /// The next area.
    fn next_area(&mut self) -> Result<Option<Area>, TraceError> {
        while let Some((number, text)) = self.lines.next_line()? {
            let wrong = match classify(text) {
                Ok(Line::Area(draft)) => match self.begun.replace((number, draft)) {
                    Some(before) => return self.finish(before).map(Some),
                    None => continue,
                },
                Ok(Line::Around) => continue,
                Ok(Line::Other(rest)) if goes_on(&mut self.begun, rest) => continue,
                Ok(Line::Other(_)) => Reason::NoListing(shortened(text)),
                Err(reason) => reason,
            };
            return Err(self.lines.blame(wrong));
        }
        self.begun.take().map(|last| self.finish(last)).transpose()
    }

    fn finish(&self, (line, draft): (usize, Draft)) -> Result<Area, TraceError> {
        draft.finish().map_err(|reason| self.lines.blame_at(line, reason))
    }
}

impl Iterator for Areas<'_> {
    type Item = Result<Area, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_area().transpose()
    }
}

/// Whether `rest` is more of the area that was begun.
fn goes_on(begun: &mut Option<(usize, Draft)>, rest: &str) -> bool {
    begun.as_mut().is_some_and(|(_, draft)| draft.take_rest(rest))
}
