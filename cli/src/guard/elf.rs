//! What the head of a file says: ELF, and for which machine; or a script, and of which interpreter.
//!
//! Source: elf(5), execve(2).

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8] = b"\x7fELF";
/// The first byte of e_ident that tells the width of addresses, and its value for 64 bits.
const CLASS: usize = 4;
const CLASS_64: u8 = 2;
const ET_DYN: u16 = 3;
const PT_INTERP: u32 = 3;
/// What Linux reads of a script's first line.
const LINE: usize = 256;
/// More would be no name of a file.
const LONGEST: u64 = 4096;
/// Headers of a program that are looked at; real ones have about a dozen.
const MOST: u16 = 512;

/// What a file begins with.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    Elf(Elf),
    /// Behind #!: the interpreter, and the rest of the line.
    Script(OsString, OsString),
    /// Anything else; a shell would read it.
    Other,
}

/// What an ELF file is made for.
#[derive(Debug, PartialEq, Eq)]
pub struct Elf {
    pub wide: bool,
    /// e_machine.
    pub machine: u16,
    /// It may be loaded anywhere.
    pub shared: bool,
    /// The loader that it asks for; None if it is loaded by Linux alone.
    pub loader: Option<OsString>,
}

impl Head {
    pub fn read(path: &Path) -> io::Result<Head> {
        let file = File::open(path)?;
        let mut bytes = vec![0; LINE];
        let n = file.read_at(&mut bytes, 0)?;
        bytes.truncate(n);
        match &bytes[..] {
            [b'#', b'!', line @ ..] => Ok(script(line)),
            head if head.starts_with(MAGIC) => elf(&file, head).map(Head::Elf),
            _ => Ok(Head::Other),
        }
    }
}

fn script(line: &[u8]) -> Head {
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let rest = line[end..].trim_ascii();
    Head::Script(OsString::from_vec(line[..end].to_vec()), OsString::from_vec(rest.to_vec()))
}

/// Where fields lie, which the width of addresses decides.
struct Fields {
    /// e_phoff, e_phentsize, e_phnum.
    table: usize,
    each: usize,
    count: usize,
    /// p_offset, p_filesz.
    offset: usize,
    size: usize,
    /// Bytes of an address.
    word: usize,
}

const WIDE: Fields = Fields { table: 32, each: 54, count: 56, offset: 8, size: 32, word: 8 };
const NARROW: Fields = Fields { table: 28, each: 42, count: 44, offset: 4, size: 16, word: 4 };

fn elf(file: &File, head: &[u8]) -> io::Result<Elf> {
    let wide = head.get(CLASS) == Some(&CLASS_64);
    let fields = if wide { WIDE } else { NARROW };
    let loader = loader(file, head, &fields)?;
    Ok(Elf { wide, machine: number(head, 18, 2)? as u16, shared: number(head, 16, 2)? as u16 == ET_DYN, loader })
}

/// The name behind the first header of the kind PT_INTERP.
fn loader(file: &File, head: &[u8], fields: &Fields) -> io::Result<Option<OsString>> {
    let (table, each) = (number(head, fields.table, fields.word)?, number(head, fields.each, 2)?);
    let count = (number(head, fields.count, 2)? as u16).min(MOST);
    let mut header = vec![0; each as usize];
    for at in 0..u64::from(count) {
        file.read_exact_at(&mut header, table.saturating_add(at * each))?;
        if number(&header, 0, 4)? as u32 == PT_INTERP {
            let (offset, size) = (fields.offset, fields.size);
            let mut name = vec![0; number(&header, size, fields.word)?.min(LONGEST) as usize];
            file.read_exact_at(&mut name, number(&header, offset, fields.word)?)?;
            name.retain(|&byte| byte != 0);
            return Ok(Some(OsString::from_vec(name)));
        }
    }
    Ok(None)
}

/// A number of `bytes` bytes, the lowest first.
fn number(from: &[u8], at: usize, bytes: usize) -> io::Result<u64> {
    let found = from.get(at..at + bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(found.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Head> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Head::read(file.path())
    }

    #[test]
    fn a_script_names_its_interpreter_and_one_argument() {
        let script = |of: &str, rest: &str| Head::Script(of.into(), rest.into());
        assert_eq!(read(b"#!/bin/sh\nx").unwrap(), script("/bin/sh", ""));
        assert_eq!(read(b"#! /usr/bin/env  python3 -s \n").unwrap(), script("/usr/bin/env", "python3 -s"));
        assert_eq!(read(b"#!").unwrap(), script("", ""));
        assert_eq!(read(b"echo").unwrap(), Head::Other);
    }

    #[test]
    fn this_test_asks_for_a_loader() {
        let Head::Elf(elf) = Head::read(&std::env::current_exe().unwrap()).unwrap() else { panic!("no ELF") };
        assert!(elf.wide == cfg!(target_pointer_width = "64") && elf.shared);
        assert!(elf.loader.unwrap().into_string().unwrap().starts_with("/lib"));
    }

    #[test]
    fn a_file_that_is_cut_short_is_an_error_and_no_panic() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in [4, 5, 17, 40, 63, 64, 100] {
            assert!(read(&own[..length]).is_err(), "{length}");
        }
    }
}
