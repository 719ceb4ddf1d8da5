//! An area of a listing, word by word.

use crate::trace::error::Reason;
use std::fmt;
use std::ops::Range;

/// The words that say what an area is for, in the order in which Linux prints them, and
/// those of areas that have no record.
const WORDS: [(Words, &str); 9] = [
    (Words::IOREMAP, "ioremap"),
    (Words::SPARSE, "sparse"),
    (Words::VMALLOC, "vmalloc"),
    (Words::VMAP, "vmap"),
    (Words::USER, "user"),
    (Words::DMA_COHERENT, "dma-coherent"),
    (Words::VPAGES, "vpages"),
    (Words::MAP_RAM, "vm_map_ram"),
    (Words::UNPURGED, "unpurged"),
];

/// Nodes that an area of several lines may have, which is as many as a Linux may have.
const MOST_NODES: usize = 1 << 10;

/// A set of words.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Words(u16);

impl Words {
    pub const NONE: Words = Words(0);
    pub const IOREMAP: Words = Words(1);
    pub const SPARSE: Words = Words(2);
    pub const VMALLOC: Words = Words(4);
    pub const VMAP: Words = Words(8);
    pub const USER: Words = Words(0x10);
    pub const DMA_COHERENT: Words = Words(0x20);
    /// The array of its pages lies in vmalloc itself.
    pub const VPAGES: Words = Words(0x40);
    pub const MAP_RAM: Words = Words(0x80);
    /// It has been freed, and waits for a flush.
    pub const UNPURGED: Words = Words(0x100);

    /// The set of a single word; `unpurged vm_area` are two for the same.
    fn of(word: &str) -> Option<Words> {
        let known = WORDS.iter().find(|(_, name)| *name == word).map(|(words, _)| *words);
        known.or_else(|| (word == "vm_area").then_some(Words::UNPURGED))
    }

    /// Whether all of `other` are among them.
    pub fn contains(self, other: Words) -> bool {
        self.0 & other.0 == other.0
    }

    fn insert(&mut self, other: Words) {
        self.0 |= other.0;
    }

    /// The last of them that says what the area is for.
    pub fn purpose(self) -> &'static str {
        let remarks = Words(Words::USER.0 | Words::VPAGES.0);
        let mut purposes = WORDS.iter().rev().filter(|(words, _)| !remarks.contains(*words));
        purposes.find(|(words, _)| self.contains(*words)).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = WORDS.iter().filter(|(words, _)| self.contains(*words)).map(|(_, name)| *name);
        f.write_str(names.next().unwrap_or("(no word)"))?;
        names.try_for_each(|name| write!(f, " {name}"))
    }
}

/// Who asked for an area.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Caller {
    /// A symbol and an offset, or what stands in their place.
    pub place: String,
    /// The module that the symbol is of.
    pub module: Option<String>,
}

impl Caller {
    /// The symbol alone.
    pub fn function(&self) -> &str {
        self.place.rsplit_once("+0x").map_or(&self.place, |(symbol, _)| symbol)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        self.module.iter().try_for_each(|module| write!(f, " [{module}]"))
    }
}

/// An area of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Area {
    /// Where it lies; unknown where the kernel hides addresses.
    pub addresses: Option<Range<u64>>,
    /// Bytes, with the guard.
    pub size: u64,
    pub caller: Option<Caller>,
    pub pages: Option<u64>,
    pub phys: Option<u64>,
    pub words: Words,
    /// Pages by node.
    pub nodes: Vec<(u32, u64)>,
}

impl Area {
    /// Whether it is in use: not freed already.
    pub fn is_live(&self) -> bool {
        !self.words.contains(Words::UNPURGED)
    }

    /// Whether its last page is a guard. Short mappings and the chunks of per-CPU memory
    /// have none; of others without a guard a listing says nothing.
    pub fn has_guard(&self) -> bool {
        let percpu = |caller: &Caller| caller.function() == "pcpu_get_vm_areas";
        !self.words.contains(Words::MAP_RAM) && !self.caller.as_ref().is_some_and(percpu)
    }

    /// The size of a page, if this area shows it: its pages and a guard fill it.
    pub fn page_shift(&self) -> Option<u32> {
        let pages = self.pages?.checked_add(1)?;
        let bytes = self.size / pages;
        let exact =
            bytes.is_power_of_two() && self.size.is_multiple_of(pages) && (12..=16).contains(&bytes.trailing_zeros());
        exact.then(|| bytes.trailing_zeros())
    }
}

/// An address, or a text that hides one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Address {
    At(u64),
    Hidden,
}

/// An area whose line may go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    range: (Address, Address),
    size: Option<u64>,
    area: Area,
}

/// What a word is to an area so far.
enum Part {
    /// Something that a listing says of an area, and that has not been said of this one.
    Known,
    /// It may be a caller without an offset.
    Name,
    Foreign,
}

impl Draft {
    pub fn new(start: Address, end: Address) -> Draft {
        Draft { range: (start, end), size: None, area: Area::default() }
    }

    /// Takes the next word of the area's line. Words of kernels to come are left out.
    pub fn take(&mut self, word: &str) -> Result<(), Reason> {
        let area = &mut self.area;
        if self.size.is_none() {
            self.size = Some(decimal(word).ok_or_else(|| Reason::NoSize(word.to_owned()))?);
        } else if let Some(words) = Words::of(word) {
            area.words.insert(words);
        } else if let Some(module) = word.strip_prefix('[') {
            let caller = area.caller.get_or_insert_with(|| Caller { place: "?".to_owned(), module: None });
            caller.module = Some(module.trim_end_matches(']').to_owned());
        } else if let Some((key, value)) = word.split_once('=') {
            self.take_pair(key, value);
        } else if area.caller.is_none() {
            // The symbol's length follows its offset; a file's name may have a stroke, too.
            let offset = word.find("+0x").and_then(|at| Some(at + word[at..].find('/')?));
            area.caller = Some(Caller { place: word[..offset.unwrap_or(word.len())].to_owned(), module: None });
        }
        Ok(())
    }

    fn take_pair(&mut self, key: &str, value: &str) {
        match key {
            "pages" => self.area.pages = decimal(value),
            "phys" => self.area.phys = hexadecimal(value.trim_start_matches("0x")),
            _ => self.area.nodes.extend(node(key).zip(decimal(value))),
        }
    }

    /// Takes the words of a line that goes on where a mailer has broken the area's; false,
    /// and nothing is taken, if it is no such line.
    pub fn take_rest(&mut self, text: &str) -> bool {
        let mut longer = self.clone();
        let mut known = false;
        for word in text.split_whitespace() {
            let part = longer.part(word);
            known |= matches!(part, Part::Known);
            if matches!(part, Part::Foreign) || longer.take(word).is_err() {
                return false;
            }
        }
        if known {
            *self = longer;
        }
        known
    }

    /// Takes the next word, if it is one that a listing can have here.
    pub fn take_known(&mut self, word: &str) -> bool {
        matches!(self.part(word), Part::Known) && self.take(word).is_ok()
    }

    fn part(&self, word: &str) -> Part {
        let area = &self.area;
        let known = if self.size.is_none() {
            decimal(word).is_some()
        } else if let Some(words) = Words::of(word) {
            !area.words.contains(words) || word == "vm_area"
        } else if word.starts_with('[') {
            word.ends_with(']') && area.caller.as_ref().is_some_and(|caller| caller.module.is_none())
        } else if let Some((key, value)) = word.split_once('=') {
            match key {
                "pages" => area.pages.is_none() && decimal(value).is_some(),
                "phys" => area.phys.is_none() && hexadecimal(value.trim_start_matches("0x")).is_some(),
                _ => {
                    area.nodes.len() < MOST_NODES
                        && decimal(value).is_some()
                        && node(key).is_some_and(|node| area.nodes.iter().all(|(other, _)| *other != node))
                }
            }
        } else {
            area.caller.is_none() && word.contains("+0x")
        };
        let name =
            area.caller.is_none() && self.size.is_some() && !word.contains(['=', '[']) && decimal(word).is_none();
        match known {
            true => Part::Known,
            false if name => Part::Name,
            false => Part::Foreign,
        }
    }

    /// The area, now that its line has ended.
    pub fn finish(self) -> Result<Area, Reason> {
        let size = self.size.ok_or_else(|| Reason::NoSize(String::new()))?;
        let addresses = match self.range {
            // Hashes, and the zeros that stand for addresses, are not as far apart as the area is large.
            (Address::At(start), Address::At(end)) if end.checked_sub(start) == Some(size) && start != 0 => {
                Some(start..end)
            }
            _ => None,
        };
        Ok(Area { addresses, size, ..self.area })
    }
}

/// The node of `N0`.
fn node(key: &str) -> Option<u32> {
    decimal(key.strip_prefix('N')?)?.try_into().ok()
}

/// A number without a sign.
pub fn decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A number of hexadecimal digits alone.
pub fn hexadecimal(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_hexdigit()) { u64::from_str_radix(text, 16).ok() } else { None }
}
