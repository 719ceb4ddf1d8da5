//! The memory devices, by hand.

use super::Done;
use super::words::{Complaint, Words};
use crate::serial::Console;
use crate::{boot, devices};
use core::ascii::escape_default;
use vmalloc_scullv::{Access, Command, How, Output, What};

/// Bytes that are read and shown at once.
const SHOWN: usize = 256;
/// Bytes that are shown unless more are asked for.
const MOST: usize = 4096;

/// The number of a device, from its name.
fn device<'t>(words: &mut Words<'t>) -> Result<usize, Complaint<'t>> {
    let name = words.next().ok_or(Complaint::Missing("which device"))?;
    name.strip_prefix("scullv").and_then(|number| number.parse().ok()).ok_or(Complaint::Unknown(name))
}

pub fn write<'t>(words: &mut Words<'t>) -> Done<'t> {
    let index = device(words)?;
    fill(index, words.rest().as_bytes())
}

pub fn load<'t>(words: &mut Words<'t>) -> Done<'t> {
    fill(device(words)?, boot::module())
}

/// Opened for writing only, a device is emptied first.
fn fill<'t>(index: usize, bytes: &[u8]) -> Done<'t> {
    let mut file = devices::open(index, Access::WriteOnly)?;
    devices::write_all(&mut file, bytes)?;
    println!("scullv{index}: {} bytes", bytes.len());
    Ok(())
}

pub fn read<'t>(words: &mut Words<'t>) -> Done<'t> {
    let mut file = devices::open(device(words)?, Access::ReadOnly)?;
    let offset = words.number_or(0, "from which byte")?;
    let mut left = words.number_or(MOST, "how many bytes")?;
    let mut at = file.seek(i64::try_from(offset).unwrap_or(i64::MAX), 0)?;
    let mut buffer = [0; SHOWN];
    while left > 0 {
        let done = file.read(&mut Output(&mut buffer), 0, left.min(SHOWN))?;
        buffer[..done].iter().for_each(|&byte| show(byte));
        if done == 0 {
            let size = file.device().status().size;
            if at >= size {
                break;
            }
            let end = file.device().next_data(at).unwrap_or(size);
            print!("(a hole of {} bytes)", end - at);
            at = file.seek(i64::try_from(end).unwrap_or(i64::MAX), 0)?;
        }
        (at, left) = (at + done as u64, left - done);
    }
    println!();
    Ok(())
}

fn show(byte: u8) {
    match byte {
        b'\n' => println!(),
        byte => print!("{}", escape_default(byte)),
    }
}

pub fn ioctl<'t>(words: &mut Words<'t>) -> Done<'t> {
    let file = devices::open(device(words)?, Access::ReadOnly)?;
    let name = words.next().ok_or(Complaint::Missing("which command"))?;
    let command = command(name).ok_or(Complaint::Unknown(name))?;
    let value = words.number_or(0, "what value")?;
    let pointer = matches!(command, Command::Of(_, How::Set | How::Get | How::Exchange));
    let mut memory = (value as i32).to_ne_bytes();
    let argument = if pointer { 0 } else { value };
    let result = file.ioctl(command.number(), argument, &mut Output(&mut memory))?;
    match pointer {
        true => println!("{result}, and {} in memory", i32::from_ne_bytes(memory)),
        false => println!("{result}"),
    }
    Ok(())
}

/// `reset`, or a letter for how and a word for what: `Torder`.
fn command(name: &str) -> Option<Command> {
    if name == "reset" {
        return Some(Command::Reset);
    }
    let how = match name.as_bytes().first()? {
        b'S' => How::Set,
        b'T' => How::Tell,
        b'G' => How::Get,
        b'Q' => How::Query,
        b'X' => How::Exchange,
        b'H' => How::Shift,
        _ => return None,
    };
    match &name[1..] {
        "order" => Some(Command::Of(What::Order, how)),
        "qset" => Some(Command::Of(What::Qset, how)),
        _ => None,
    }
}

pub fn scullvmem<'t>(_: &mut Words<'t>) -> Done<'t> {
    // The console refuses nothing.
    let _printed = devices::all()?.list(&mut Console);
    Ok(())
}
