//! What an address of code is: module, offset, function, file and line.
//!
//! Read when a report is written, in a copy of the process (`copy.rs`): from `/proc/self/maps`, and from
//! the files that are named there. A module's symbols serve where it has no debug information.

use addr2line::Loader;
use object::read::ReadCache;
use object::{Object, ObjectSegment};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Code of a backtrace. One address may be several: functions that were inlined.
#[derive(Clone, Default, Debug)]
pub struct Frame {
    /// The address.
    pub address: usize,
    /// The file that it was loaded from.
    pub module: Option<String>,
    /// The address in that file, as its debug information has it.
    pub offset: u64,
    /// The function.
    pub symbol: Option<String>,
    /// Its source.
    pub file: Option<String>,
    /// The line there.
    pub line: Option<u32>,
}

struct Map {
    start: usize,
    end: usize,
    /// Of its start, in the file.
    offset: u64,
    path: PathBuf,
}

/// The modules of this process.
pub struct Symbols {
    maps: Vec<Map>,
    modules: BTreeMap<PathBuf, Module>,
}

/// A part of a file that is loaded: from where in the file, how much of it, and to which address.
struct Segment {
    offset: u64,
    bytes: u64,
    address: u64,
}

struct Module {
    segments: Vec<Segment>,
    loader: Option<Loader>,
}

impl Symbols {
    /// Reads what is loaded where.
    pub fn new() -> Symbols {
        let maps = fs::read("/proc/self/maps").unwrap_or_default();
        Symbols { maps: maps.split(|&byte| byte == b'\n').filter_map(Map::read).collect(), modules: BTreeMap::new() }
    }

    /// A backtrace, without the frames of the guard at its young end. The first address is where a thread
    /// is, if `is_exact`; all others are where calls return to.
    pub fn frames(&mut self, trace: &[usize], is_exact: bool) -> Vec<Frame> {
        let place = |(n, &pc): (usize, &usize)| (pc, if is_exact && n == 0 { pc } else { pc.saturating_sub(1) });
        let all: Vec<Frame> = trace.iter().enumerate().map(place).flat_map(|(pc, at)| self.at(pc, at)).collect();
        let own = all.iter().take_while(|frame| frame.is_own()).count();
        all[if own == all.len() { 0 } else { own }..].to_vec()
    }

    /// The code at `at`, which a trace names as `pc`.
    fn at(&mut self, pc: usize, at: usize) -> Vec<Frame> {
        let plain = Frame { address: pc, ..Frame::default() };
        let Some(map) = self.maps.iter().find(|map| (map.start..map.end).contains(&at)) else { return vec![plain] };
        let module = self.modules.entry(map.path.clone()).or_insert_with(|| Module::read(&map.path));
        let offset = module.address(map.offset + (at - map.start) as u64);
        let plain = Frame { module: Some(map.path.display().to_string()), offset: offset + (pc - at) as u64, ..plain };
        module.frames(offset, &plain)
    }
}

impl Map {
    /// A line of the list, if it is of code in a file. The path may be any bytes.
    fn read(line: &[u8]) -> Option<Map> {
        let (numbers, path) = line.split_at(line.iter().position(|&byte| byte == b'/')?);
        let mut words = str::from_utf8(numbers).ok()?.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let is_code = words.next()?.contains('x');
        let offset = u64::from_str_radix(words.next()?, 16).ok()?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let path = OsStr::from_bytes(path).into();
        is_code.then_some(Map { start: number(start)?, end: number(end)?, offset, path })
    }
}

impl Module {
    fn read(path: &Path) -> Module {
        Module { segments: segments(path).unwrap_or_default(), loader: Loader::new(path).ok() }
    }

    /// The address that a byte of the file is loaded to, as the file has it.
    fn address(&self, offset: u64) -> u64 {
        let holds = |part: &&Segment| (part.offset..part.offset + part.bytes).contains(&offset);
        self.segments.iter().find(holds).map_or(offset, |part| offset - part.offset + part.address)
    }

    /// The outermost function is named as the linker knows it: short debug information leaves out where
    /// it belongs.
    fn frames(&self, address: u64, plain: &Frame) -> Vec<Frame> {
        let mut all = self.told(address, plain).unwrap_or_default();
        if all.is_empty() {
            all.push(plain.clone());
        }
        let symbol = self.loader.as_ref().and_then(|loader| loader.find_symbol(address)).map(name);
        if let Some(last) = all.last_mut() {
            last.symbol = symbol.or(last.symbol.take());
        }
        all
    }

    /// What the debug information says, the innermost function first.
    fn told(&self, address: u64, plain: &Frame) -> Option<Vec<Frame>> {
        let mut frames = self.loader.as_ref()?.find_frames(address).ok()?;
        let mut all = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref().and_then(|name| name.demangle().ok());
            let place = frame.location.as_ref();
            all.push(Frame {
                symbol: name.map(|name| name.into_owned()),
                file: place.and_then(|place| place.file).map(str::to_owned),
                line: place.and_then(|place| place.line),
                ..plain.clone()
            });
        }
        Some(all)
    }
}

fn segments(path: &Path) -> Option<Vec<Segment>> {
    let data = ReadCache::new(File::open(path).ok()?);
    let file = object::File::parse(&data).ok()?;
    let segment = |part: object::Segment<'_, '_, _>| {
        let (offset, bytes) = part.file_range();
        Segment { offset, bytes, address: part.address() }
    };
    Some(file.segments().map(segment).collect())
}

impl Frame {
    /// Whether it is of the guard, or of the way into it.
    fn is_own(&self) -> bool {
        const NAMES: [&str; 4] = ["vmalloc_guard::", "<vmalloc_guard::", "__rust_", "__rustc::__r"];
        const FILES: [&str; 2] = ["/guard/src/guarded.rs", "/library/alloc/src/alloc.rs"];
        let has = |text: &Option<String>, f: &dyn Fn(&str) -> bool| text.as_deref().is_some_and(f);
        has(&self.symbol, &|name| NAMES.iter().any(|own| name.starts_with(own)))
            || has(&self.file, &|file| FILES.iter().any(|own| file.ends_with(own)))
    }
}

/// A function's name as people write it, without the compiler's hash.
fn name(symbol: &str) -> String {
    let name = addr2line::demangle_auto(symbol.into(), None).into_owned();
    match name.rsplit_once("::h") {
        Some((plain, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => plain.to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Mark, Trace};

    #[test]
    fn names_are_without_hashes() {
        assert_eq!(name("_ZN3foo3bar17h0123456789abcdefE"), "foo::bar");
        assert_eq!(name("malloc"), "malloc");
    }

    /// Whether the frame of whoever makes the mark is in the trace is the compiler's choice.
    #[inline(never)]
    fn taken() -> Trace {
        std::hint::black_box(Trace::here(Mark::here()))
    }

    #[test]
    fn this_test_is_found_in_its_own_trace() {
        let trace = taken();
        let frames = Symbols::new().frames(trace.frames(), false);
        let here = frames.iter().find(|frame| frame.file.as_ref().is_some_and(|file| file.ends_with("symbols.rs")));
        let here = here.unwrap_or_else(|| panic!("{frames:#?}"));
        assert!(here.line.is_some() && here.module.is_some() && here.offset > 0, "{here:?}");
    }
}
