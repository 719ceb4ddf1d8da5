//! What a line of a pasted text is.
//!
//! ```text
//!   0x<start>-0x<end> <size> ...                       an area
//!   > [   12.345678] 0x<start>-0x<end> <size> ...      an area; what stands before it is left out
//!   <hex> <hex>  <start> - <end>  <size>               an area, as crash's `kmem -v` has it
//!   # cat /proc/vmallocinfo                            a command, a prompt, a title: no area
//!   N0=4                                               the rest of an area's line that was broken
//! ```

use super::area::{Address, Draft, decimal, hexadecimal};
use crate::trace::error::Reason;

/// What a line is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line<'t> {
    /// An area begins here.
    Area(Draft),
    /// Nothing of a listing, but what is found around one.
    Around,
    /// Something else: the rest of the line before, or wrong.
    Other(&'t str),
}

/// What the line `text` is.
pub fn classify(text: &str) -> Result<Line<'_>, Reason> {
    let text = unquoted(text);
    if let Some(draft) = area(text)? {
        Ok(Line::Area(draft))
    } else if let Some(draft) = crash(text) {
        Ok(Line::Area(draft))
    } else if is_around(text) {
        Ok(Line::Around)
    } else {
        Ok(Line::Other(text))
    }
}

/// `text` without a mail's marks of what is quoted.
fn unquoted(text: &str) -> &str {
    text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '>' | '|' | '\u{feff}'))
}

/// The area of a line that has a range, with whatever stands before the range.
fn area(text: &str) -> Result<Option<Draft>, Reason> {
    let mut words = text.split_whitespace();
    let Some((start, end)) = words.by_ref().find_map(range) else { return Ok(None) };
    let mut draft = Draft::new(start, end);
    words.try_for_each(|word| draft.take(word))?;
    Ok(Some(draft))
}

/// The area of a line that a terminal has broken in the middle of a word. All its words must
/// be those of a listing: else anything could be the end of a caller.
pub fn rejoined(text: &str) -> Option<Draft> {
    let mut words = text.split_whitespace();
    let (start, end) = words.by_ref().find_map(range)?;
    let mut draft = Draft::new(start, end);
    words.all(|word| draft.take_known(word)).then_some(draft)
}

/// `0x<start>-0x<end>`, after a file's name and a line's number if a search has put them there.
fn range(word: &str) -> Option<(Address, Address)> {
    let word = word.rsplit_once(':').map_or(word, |(_, range)| range);
    let (start, end) = word.split_once('-')?;
    Some((address(start)?, address(end)?))
}

fn address(text: &str) -> Option<Address> {
    let text = text.strip_prefix("0x")?;
    let hidden = text.starts_with('(') && text.ends_with(')');
    if hidden { Some(Address::Hidden) } else { non_empty(text).and_then(hexadecimal).map(Address::At) }
}

fn non_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// A row of crash's `kmem -v`: addresses of records, a range and its size.
fn crash(text: &str) -> Option<Draft> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [records @ .., start, "-", end, size] = words.as_slice() else { return None };
    let (start, end, bytes) = (hexadecimal(start)?, hexadecimal(end)?, decimal(size)?);
    if !records.iter().all(|record| hexadecimal(record).is_some()) || end.checked_sub(start) != Some(bytes) {
        return None;
    }
    let mut draft = Draft::new(Address::At(start), Address::At(end));
    draft.take(size).and_then(|()| draft.take("?")).ok()?;
    Some(draft)
}

/// Commands, prompts, titles and fences.
fn is_around(text: &str) -> bool {
    let prompts = text.ends_with(['#', '$', '%', '>']);
    text.is_empty()
        || prompts
        || text.starts_with("```")
        || ["vmallocinfo", "kmem -v", "VM_STRUCT"].iter().any(|part| text.contains(part))
}
