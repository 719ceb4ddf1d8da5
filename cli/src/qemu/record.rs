//! Records: how the guest tells figures to programs.
//!
//! ```text
//!   @name key=value key=value        values without spaces; %20 stands for one
//! ```
//!
//! Every other line is for people, a line with an `@` that is no record among
//! them.

use std::collections::BTreeMap;
use thiserror::Error;

/// A line of the guest's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<'a> {
    /// For people.
    Text(&'a str),
    /// For programs.
    Record(&'a Record),
}

/// Figures of one thing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// What they are about.
    pub name: String,
    fields: BTreeMap<String, String>,
}

/// A record is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BadRecord {
    #[error("the guest's @{record} has no {key}")]
    Missing { record: String, key: String },
    #[error("the guest's @{record} says {key}={value}, which is not a number")]
    NoNumber { record: String, key: String, value: String },
}

impl Record {
    /// The record that `line` is, if it is one.
    pub fn parse(line: &str) -> Option<Record> {
        let mut words = line.strip_prefix('@')?.split_ascii_whitespace();
        let name = words.next().filter(|_| !line.starts_with("@ "))?.to_owned();
        let field = |word: &str| word.split_once('=').map(|(key, value)| (key.to_owned(), decoded(value)));
        Some(Record { name, fields: words.map(field).collect::<Option<_>>()? })
    }

    /// The value of `key`, if there is one.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.get(key).map(String::as_str)
    }

    /// The value of `key`.
    pub fn text(&self, key: &str) -> Result<&str, BadRecord> {
        self.get(key).ok_or_else(|| BadRecord::Missing { record: self.name.clone(), key: key.to_owned() })
    }

    /// The number that the value of `key` is, in decimal or with `0x`.
    pub fn number(&self, key: &str) -> Result<u64, BadRecord> {
        let value = self.text(key)?;
        let number = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        number.map_err(|_| BadRecord::NoNumber {
            record: self.name.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// `text` with the bytes that `%XX` stand for.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let coded = behind.get(..2).filter(|_| first == b'%');
        let byte = coded.and_then(|two| u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_a_name_and_values() {
        let record = Record::parse("@case name=fix_size pages=0x10 cost=612 why=too%20few%25").unwrap();
        assert_eq!((record.name.as_str(), record.get("name")), ("case", Some("fix_size")));
        assert_eq!((record.number("pages"), record.number("cost")), (Ok(16), Ok(612)));
        assert_eq!(record.text("why"), Ok("too few%"));
        assert_eq!(Record::parse("@end").unwrap().get("end"), None);
    }

    #[test]
    fn other_lines_are_for_people() {
        for line in ["", "hello", " @case a=1", "@", "@ a=1", "@case of a broken line"] {
            assert_eq!(Record::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn what_is_missing_or_no_number_is_named() {
        let record = Record::parse("@case cost=much").unwrap();
        assert_eq!(record.text("loops").unwrap_err().to_string(), "the guest's @case has no loops");
        let message = "the guest's @case says cost=much, which is not a number";
        assert_eq!(record.number("cost").unwrap_err().to_string(), message);
    }

    #[test]
    fn half_a_code_stands_for_itself() {
        assert_eq!(["%", "%4", "%4g", "a%", "%c3%a9", "%ff"].map(decoded), ["%", "%4", "%4g", "a%", "é", "\u{fffd}"]);
    }
}
