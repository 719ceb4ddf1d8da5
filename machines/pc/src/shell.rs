//! Commands: from the command line, from a script, or from the serial line.

mod commands;

use crate::{boot, cpu, serial};
use commands::Ended;

/// Runs commands, separated by `;`; `@script` takes them from the module, a
/// command a line. True if all were right; the first that is not ends it.
pub fn run(list: &str) -> bool {
    match list.trim() {
        "@script" => all(core::str::from_utf8(boot::module()).unwrap_or("").lines()),
        list => all(list.split(';')),
    }
}

fn all<'t>(lines: impl Iterator<Item = &'t str>) -> bool {
    let mut right = true;
    for line in lines.map(str::trim).filter(|line| !line.is_empty()) {
        println!("> {line}");
        match commands::run(line) {
            Ended::Right => (),
            Ended::Wrong => right = false,
            Ended::PowerOff => break,
        }
        cpu::here().run_due();
    }
    right
}

/// Reads commands from the serial line until one says that it is over.
pub fn talk() -> bool {
    let mut right = true;
    let mut line = Line::default();
    println!("help lists the commands");
    loop {
        print!("> ");
        match commands::run(line.read()) {
            Ended::Right => (),
            Ended::Wrong => right = false,
            Ended::PowerOff => return right,
        }
    }
}

/// A line that is being typed.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Default for Line {
    fn default() -> Line {
        Line { bytes: [0; 256], len: 0 }
    }
}

impl Line {
    fn read(&mut self) -> &str {
        self.len = 0;
        loop {
            match next_byte() {
                b'\r' | b'\n' => break,
                8 | 127 if self.len > 0 => {
                    self.len -= 1;
                    print!("\x08 \x08");
                }
                byte @ b' '..=b'~' if self.len < self.bytes.len() => {
                    self.bytes[self.len] = byte;
                    self.len += 1;
                    print!("{}", byte as char);
                }
                _ => (),
            }
        }
        println!();
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("").trim()
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
