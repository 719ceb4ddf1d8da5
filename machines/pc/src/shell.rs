//! Commands: from the command line, from a script, or from the serial line.
//!
//! ```text
//!   editor   a line that is being typed, and those before it
//!   words    a command's words as sizes, addresses, numbers; what is wrong
//!   areas    making areas, looking at them, giving them back
//!   look     memory, CPUs, the map, policies
//!   files    the memory devices
//!   leaks    areas that nothing points to any more
//!   walk     the walk to an address, entry by entry
//! ```
//!
//! A command that cannot do what it is told says why, with the numbers, and
//! what to do; then the image ends with [`Code::Failed`](crate::exit::Code),
//! whatever follows.

mod areas;
mod editor;
mod files;
mod leaks;
mod look;
mod walk;
mod words;

use crate::{boot, cpu};
use editor::{Editor, Typed};
use spin::Mutex;
use words::{Complaint, Words};

/// How a command ends.
type Done<'t> = Result<(), Complaint<'t>>;

/// What a person can ask for.
struct Command {
    name: &'static str,
    words: &'static str,
    about: &'static str,
    run: for<'t> fn(&mut Words<'t>) -> Done<'t>,
}

const fn command(
    name: &'static str,
    words: &'static str,
    about: &'static str,
    run: for<'t> fn(&mut Words<'t>) -> Done<'t>,
) -> Command {
    Command { name, words, about, run }
}

const ALL: &[Command] = &[
    command("help", "[COMMAND]", "this list", help),
    command("mem", "", "frames, by node and zone", look::mem),
    command("stats", "", "what the library holds and has counted", look::stats),
    command("cpus", "", "what each CPU has counted", look::cpus),
    command("map", "", "the regions of the address space, drawn", look::map),
    command("layout", "", "the parts of the address space, their sizes and holes", look::layout),
    command("kmemleak", "[scan|clear|…]", "areas that nothing points to, found by two scans", leaks::kmemleak),
    command("sleep", "SECONDS", "waits", look::sleep),
    command("vmallocinfo", "", "the areas, as Linux lists them", areas::list),
    command("vmalloc", "SIZE [ALIGN]", "an area of memory", areas::vmalloc),
    command("vmap", "PAGES", "an area of frames, one allocated after the other", areas::vmap),
    command("ioremap", "PHYS SIZE", "an area over a device", areas::ioremap),
    command("vfree", "ADDRESS", "gives an area back, whatever it is", areas::vfree),
    command("fill", "ADDRESS [BYTE]", "writes all of an area, and reads it again", areas::fill),
    command("peek", "ADDRESS [COUNT]", "words of 8 bytes, read", areas::peek),
    command("poke", "ADDRESS VALUE", "a word of 8 bytes, written", areas::poke),
    command("whatis", "ADDRESS", "what the library knows of an address", areas::whatis),
    command("walk", "ADDRESS", "the way to it through the page tables, drawn", walk::walk),
    command("policy", "[unmap|strict|park|keep]", "when freed areas become unreachable", look::policy),
    command("purge", "", "everything freed is flushed and given back", look::purge),
    command("write", "DEVICE TEXT", "a device (scullv0 and others) emptied, and the text written", files::write),
    command("read", "DEVICE [OFFSET [LEN]]", "what a device has, as text", files::read),
    command("load", "DEVICE", "a device emptied, and the module that came along written", files::load),
    command("ioctl", "DEVICE COMMAND [VALUE]", "reset, or S T G Q X H before order or qset: Torder 2", files::ioctl),
    command("scullvmem", "", "the devices, as their driver lists them", files::scullvmem),
    command("tests", "[NAME]", "the tests on this machine, or those of this name", tests),
    command("stress", "SECONDS", "all operations on all CPUs, each page checked", stress),
    command("bench", "[CASE] [policy=P] [loops=N]", "what Linux's own cases cost", bench),
    command("replay", "", "plays the script that came along", replay),
    command("trapcost", "", "what a trap costs", trapcost),
    command("crash", "[HOW]", "dies in a way that can be named", crash),
    command("panic", "[WORDS]", "panics", panic),
    command("poweroff", "", "ends", |_| Err(Complaint::PowerOff)),
];

/// Runs commands, separated by `;`; `@script` takes them from the module, a
/// command a line. True if all were right.
pub fn run(list: &str) -> bool {
    match list.trim() {
        "@script" => match core::str::from_utf8(boot::module()) {
            Ok(script) => all(script.lines()),
            Err(why) => {
                println!("the script is no text: {why}");
                false
            }
        },
        list => all(list.split(';')),
    }
}

fn all<'t>(lines: impl Iterator<Item = &'t str>) -> bool {
    let mut right = true;
    for line in lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        println!("> {line}");
        match obey(line) {
            Ended::PowerOff => break,
            ended => right &= ended == Ended::Right,
        }
        cpu::here().run_due();
    }
    right
}

/// Larger than a stack should carry.
static EDITOR: Mutex<Editor> = Mutex::new(Editor::new());

/// Reads commands from the serial line until one says that it is over.
pub fn talk() -> bool {
    let mut right = true;
    let mut editor = EDITOR.lock();
    println!("help lists the commands, poweroff ends");
    loop {
        let line = match editor.line() {
            Typed::Line(line) => line,
            Typed::End => return right,
        };
        for command in line.split(';').map(str::trim) {
            match obey(command) {
                Ended::PowerOff => return right,
                ended => right &= ended == Ended::Right,
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Right,
    Wrong,
    PowerOff,
}

/// Does what one command says; an empty one is right.
fn obey(line: &str) -> Ended {
    let mut words = Words::of(line);
    let Some(name) = words.next() else { return Ended::Right };
    let Some(command) = find(name) else {
        println!("no command {name}; help lists them");
        return Ended::Wrong;
    };
    match (command.run)(&mut words).and_then(|()| words.end()) {
        Ok(()) => Ended::Right,
        Err(Complaint::PowerOff) => Ended::PowerOff,
        Err(Complaint::Said) => Ended::Wrong,
        Err(why) => {
            println!("{name}: {why}");
            if why.is_about_words() {
                println!("it is: {name} {}", command.words);
            }
            Ended::Wrong
        }
    }
}

fn find(name: &str) -> Option<&'static Command> {
    ALL.iter().find(|command| command.name == name)
}

fn help<'t>(words: &mut Words<'t>) -> Done<'t> {
    let wanted = words.next();
    if let Some(name) = wanted.filter(|name| find(name).is_none()) {
        return Err(Complaint::Unknown(name));
    }
    for Command { name, words, about, .. } in ALL.iter().filter(|one| wanted.is_none_or(|name| one.name == name)) {
        println!("  {name:<11} {words:<27} {about}");
    }
    if wanted.is_none() {
        println!(
            "Numbers are decimal, or hexadecimal with 0x; K, M and G stand behind them. ; stands between commands."
        );
    }
    Ok(())
}

fn said<'t>(right: bool) -> Done<'t> {
    if right { Ok(()) } else { Err(Complaint::Said) }
}

fn tests<'t>(words: &mut Words<'t>) -> Done<'t> {
    said(crate::tests::run(words.next().unwrap_or("")))
}

fn stress<'t>(words: &mut Words<'t>) -> Done<'t> {
    let seconds = words.number("how many seconds")?;
    said(crate::tests::stress(seconds as u64).is_ok())
}

fn bench<'t>(words: &mut Words<'t>) -> Done<'t> {
    said(crate::bench::run(words.rest()))
}

fn replay<'t>(_: &mut Words<'t>) -> Done<'t> {
    crate::replay::run().map_err(Complaint::NoReplay)
}

fn crash<'t>(words: &mut Words<'t>) -> Done<'t> {
    crate::tests::crash(words.next().unwrap_or(""));
    Ok(())
}

fn panic<'t>(words: &mut Words<'t>) -> Done<'t> {
    match words.rest() {
        "" => panic!("as it was told to"),
        text => panic!("{text}"),
    }
}

fn trapcost<'t>(_: &mut Words<'t>) -> Done<'t> {
    let (trap, saving) = crate::trap::cost();
    println!("a trap, there and back: {trap} counts; of these, {saving} save and restore the SSE state");
    println!("@trap cost={trap} saving={saving}");
    Ok(())
}
