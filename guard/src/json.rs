//! Reports for programs: an object a line.
//!
//! ```text
//!   {"kind":"overrun","bytes":1,"address":"0x…","size":100,"age_ms":12,"access":"write",
//!    "process":7,"start":"0x…","allocated":{"thread":7,"backtrace":[…]},"freed":null,"here":{…}}
//! ```

use crate::finding::Finding;
use crate::leaks::Leaks;
use crate::report::Story;
use crate::slot::Event;
use crate::symbols::Frame;
use crate::trace::Trace;
use core::fmt::{self, Write};

/// What is wrong.
pub fn finding(story: &mut Story<'_>, found: &Finding) -> fmt::Result {
    let Finding { kind, bytes, address, access, .. } = found;
    write!(story.out, "{{\"kind\":\"{}\",\"bytes\":{bytes},\"address\":\"{address:#x}\",", kind.word())?;
    write!(story.out, "\"access\":\"{}\",\"process\":{}", access.word(), story.process)?;
    match found.record {
        Some(record) => {
            let age = found.now.saturating_sub(record.made.when);
            write!(story.out, ",\"size\":{},\"age_ms\":{age}", record.place.size)?;
            write!(story.out, ",\"start\":\"{:#x}\"", record.place.start)?;
        }
        None => story.out.write_str(",\"size\":null,\"age_ms\":null,\"start\":null")?,
    }
    event(story, "allocated", found.record.map(|record| record.made))?;
    event(story, "freed", found.record.and_then(|record| record.freed))?;
    by(story, "here", found.thread, &found.here.trace(), true)?;
    story.out.write_str("}\n")
}

fn event(story: &mut Story<'_>, name: &str, event: Option<Event>) -> fmt::Result {
    match event {
        Some(event) => by(story, name, event.thread, &story.engine.depot.trace(event.trace), false),
        None => write!(story.out, ",\"{name}\":null"),
    }
}

fn by(story: &mut Story<'_>, name: &str, thread: u32, trace: &Trace, is_exact: bool) -> fmt::Result {
    write!(story.out, ",\"{name}\":{{\"thread\":{thread},\"backtrace\":[")?;
    frames(story, trace, is_exact)?;
    story.out.write_str("]}")
}

fn frames(story: &mut Story<'_>, trace: &Trace, is_exact: bool) -> fmt::Result {
    story.frames(trace, is_exact, &mut |out, n, frame| {
        let comma = if n == 0 { "" } else { "," };
        write!(out, "{comma}{}", Object(frame))
    })
}

/// What is left at the exit.
pub fn leaks(story: &mut Story<'_>, leaks: &Leaks<'_>) -> fmt::Result {
    let (bytes, count) = leaks.sum();
    let process = story.process;
    write!(story.out, "{{\"kind\":\"leaks\",\"bytes\":{bytes},\"count\":{count},\"process\":{process},\"left\":[")?;
    let mut comma = "";
    leaks.each(&mut |group| {
        let (bytes, count) = (group.bytes, group.count);
        write!(story.out, "{comma}{{\"bytes\":{bytes},\"count\":{count},\"backtrace\":[")?;
        comma = ",";
        frames(story, &story.engine.depot.trace(group.trace), false)?;
        story.out.write_str("]}")
    })?;
    story.out.write_str("]}\n")
}

struct Object<'a>(&'a Frame);

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Frame { address, module, offset, symbol, file, line } = self.0;
        write!(f, "{{\"address\":\"{address:#x}\",\"module\":{},", Text(module.as_deref()))?;
        write!(f, "\"offset\":\"{offset:#x}\",\"symbol\":{},", Text(symbol.as_deref()))?;
        write!(f, "\"file\":{},\"line\":", Text(file.as_deref()))?;
        match line {
            Some(line) => write!(f, "{line}}}"),
            None => f.write_str("null}"),
        }
    }
}

/// A string, or null.
struct Text<'a>(Option<&'a str>);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(text) = self.0 else { return f.write_str("null") };
        f.write_char('"')?;
        for letter in text.chars() {
            match letter {
                '"' | '\\' => write!(f, "\\{letter}")?,
                ..' ' => write!(f, "\\u{:04x}", letter as u32)?,
                _ => f.write_char(letter)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted() {
        assert_eq!(Text(Some("a\"b\\c\n")).to_string(), r#""a\"b\\c\u000a""#);
        assert_eq!(Text(None).to_string(), "null");
    }
}
