//! A line that is being typed, and the lines before it.
//!
//! | Key | Does |
//! |---|---|
//! | Backspace, ← → | as everywhere |
//! | ↑ ↓ | the lines before |
//! | Ctrl-A, Ctrl-E | to the start, to the end (Ctrl-A is typed twice where the terminal takes it) |
//! | Ctrl-U | forgets the line |
//! | Ctrl-C | forgets the line, and begins another one below |
//! | Ctrl-D | ends, on an empty line |

use crate::{cpu, serial};

/// Bytes of a line at most.
const LONGEST: usize = 200;
/// Lines that are remembered.
const KEPT: usize = 8;
const PROMPT: &str = "> ";

/// What came of typing.
pub enum Typed<'e> {
    /// A line.
    Line(&'e str),
    /// Nothing more will be typed.
    End,
}

#[derive(Clone, Copy)]
struct Line {
    bytes: [u8; LONGEST],
    len: usize,
}

/// Where lines are typed.
pub struct Editor {
    line: Line,
    cursor: usize,
    /// The lines before; the last one was typed first.
    kept: [Line; KEPT],
    /// The one of these that is shown, counted from 1; 0 = none.
    shown: usize,
    /// The last byte was a carriage return: a line feed after it is no line.
    returned: bool,
}

/// A key.
enum Key {
    Byte(u8),
    Left,
    Right,
    Up,
    Down,
    Other,
}

impl Line {
    const EMPTY: Line = Line { bytes: [0; LONGEST], len: 0 };

    fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }
}

impl Editor {
    /// Nothing was typed yet.
    pub const fn new() -> Editor {
        Editor { line: Line::EMPTY, cursor: 0, kept: [Line::EMPTY; KEPT], shown: 0, returned: false }
    }

    /// Lets a line be typed.
    pub fn line(&mut self) -> Typed<'_> {
        (self.line, self.cursor, self.shown) = (Line::EMPTY, 0, 0);
        print!("{PROMPT}");
        loop {
            let was_return = core::mem::take(&mut self.returned);
            match key() {
                Key::Byte(b'\n') if was_return => continue,
                Key::Byte(end @ (b'\r' | b'\n')) => {
                    self.returned = end == b'\r';
                    break;
                }
                Key::Byte(4) if self.line.len == 0 => {
                    println!();
                    return Typed::End;
                }
                Key::Byte(3) => {
                    println!("^C");
                    self.show(Line::EMPTY);
                }
                // As on a teletype: what is piped in comes back without codes.
                Key::Byte(byte @ b' '..=b'~') if self.cursor == self.line.len && self.line.len < LONGEST => {
                    print!("{}", byte as char);
                    self.edit(Key::Byte(byte));
                    continue;
                }
                key => self.edit(key),
            }
            self.draw();
        }
        println!();
        self.keep();
        Typed::Line(self.line.text())
    }

    fn edit(&mut self, key: Key) {
        match key {
            Key::Byte(8 | 127) if self.cursor > 0 => {
                self.cursor -= 1;
                self.line.bytes.copy_within(self.cursor + 1..self.line.len, self.cursor);
                self.line.len -= 1;
            }
            Key::Byte(byte @ b' '..=b'~') if self.line.len < LONGEST => {
                self.line.bytes.copy_within(self.cursor..self.line.len, self.cursor + 1);
                self.line.bytes[self.cursor] = byte;
                self.line.len += 1;
                self.cursor += 1;
            }
            Key::Byte(0x15) => self.show(Line::EMPTY),
            Key::Byte(1) => self.cursor = 0,
            Key::Byte(5) => self.cursor = self.line.len,
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = (self.cursor + 1).min(self.line.len),
            Key::Up => self.recall(self.shown + 1),
            Key::Down => self.recall(self.shown.saturating_sub(1)),
            Key::Byte(_) | Key::Other => (),
        }
    }

    fn recall(&mut self, number: usize) {
        let line = number.checked_sub(1).map_or(Some(Line::EMPTY), |index| self.kept.get(index).copied());
        if let Some(line) = line.filter(|line| number == 0 || line.len > 0) {
            self.show(line);
            self.shown = number;
        }
    }

    fn show(&mut self, line: Line) {
        (self.line, self.cursor) = (line, line.len);
    }

    fn keep(&mut self) {
        if self.line.len > 0 && self.line.text() != self.kept[0].text() {
            self.kept.rotate_right(1);
            self.kept[0] = self.line;
        }
    }

    /// The line anew, and the cursor where it is.
    fn draw(&self) {
        print!("\r{PROMPT}{}\x1b[K\r\x1b[{}C", self.line.text(), PROMPT.len() + self.cursor);
    }
}

/// The next key: an arrow is three bytes.
fn key() -> Key {
    const ESCAPE: u8 = 0x1b;
    match next_byte() {
        ESCAPE if next_byte() == b'[' => match next_byte() {
            b'A' => Key::Up,
            b'B' => Key::Down,
            b'C' => Key::Right,
            b'D' => Key::Left,
            _ => Key::Other,
        },
        ESCAPE => Key::Other,
        byte => Key::Byte(byte),
    }
}

/// Looks at each tick whether a byte has come.
fn next_byte() -> u8 {
    loop {
        if let Some(byte) = serial::read() {
            return byte;
        }
        let here = cpu::here();
        if !here.run_work() {
            cpu::idle(here);
        }
    }
}
