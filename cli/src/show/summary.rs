//! A listing, summed up while it is read.
//!
//! What is kept grows with the callers of a listing and, by three words an area, with
//! its areas; their lines are not kept.

use crate::listing::area::{Area, Words};
use crate::options::show::By;
use crate::trace::error::TraceError;
use std::collections::BTreeMap;

/// Who asked, where a listing does not say.
const NO_CALLER: &str = "(no caller)";
/// The module of what is of the kernel itself.
const BUILT_IN: &str = "(kernel)";
/// The node of pages of which a listing names none.
const NO_NODE: &str = "(no node)";

/// Some areas together. Where numbers of a damaged listing are too large to be summed, a sum stays the largest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    pub areas: u64,
    /// Addresses, with guards.
    pub bytes: u64,
    pub pages: u64,
}

impl Sum {
    fn of(area: &Area) -> Sum {
        Sum { areas: 1, bytes: area.size, pages: area.pages.unwrap_or(0) }
    }

    pub fn add(&mut self, other: Sum) {
        self.areas = self.areas.saturating_add(other.areas);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.pages = self.pages.saturating_add(other.pages);
    }
}

/// A line of a table: what is summed, and its sum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub name: String,
    pub sum: Sum,
}

/// Addresses of an area, for holes and the picture.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span {
    /// Where it begins; 0 where addresses are hidden.
    pub start: u64,
    pub bytes: u64,
    pub words: Words,
}

impl Span {
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

/// The largest areas of those seen.
#[derive(Debug)]
struct Largest {
    most: usize,
    /// Areas with their numbers in the listing; more than `most`, until they are sorted.
    areas: Vec<(u64, Area)>,
}

impl Largest {
    fn add(&mut self, number: u64, area: &Area) {
        self.areas.push((number, area.clone()));
        if self.areas.len() >= self.most.saturating_mul(2).max(64) {
            self.sort();
        }
    }

    /// Of areas of one size those that come first in the listing stay.
    fn sort(&mut self) {
        self.areas.sort_by_key(|(number, area)| (u64::MAX - area.size, *number));
        self.areas.truncate(self.most);
    }
}

/// What a listing says.
#[derive(Debug)]
pub struct Summary {
    /// What errors and titles call the listing.
    pub name: String,
    /// Live areas.
    pub live: Sum,
    /// Freed areas that wait for a flush.
    pub unpurged: Sum,
    /// Live areas with a guard.
    pub guards: u64,
    /// Areas whose addresses are hidden.
    pub hidden: u64,
    /// All areas; by address, if none is hidden.
    pub spans: Vec<Span>,
    callers: BTreeMap<String, Sum>,
    modules: BTreeMap<String, Sum>,
    kinds: BTreeMap<Words, Sum>,
    nodes: BTreeMap<u32, Sum>,
    /// Pages whose node is not told.
    nowhere: Sum,
    /// By the logarithm of the size, rounded up.
    classes: BTreeMap<u32, Sum>,
    largest: Largest,
    /// How many areas show pages of 4096 << n bytes.
    pages_of: [u64; 5],
}

impl Summary {
    /// Sums up `areas`, and keeps the `top` largest.
    pub fn new(
        name: &str,
        areas: impl Iterator<Item = Result<Area, TraceError>>,
        top: usize,
    ) -> Result<Summary, TraceError> {
        let mut summary = Summary::empty(name, top);
        for area in areas {
            summary.add(&area?);
        }
        if summary.hidden == 0 {
            summary.spans.sort_unstable();
        }
        summary.largest.sort();
        Ok(summary)
    }

    fn empty(name: &str, top: usize) -> Summary {
        Summary {
            name: name.to_owned(),
            live: Sum::default(),
            unpurged: Sum::default(),
            guards: 0,
            hidden: 0,
            spans: Vec::new(),
            callers: BTreeMap::new(),
            modules: BTreeMap::new(),
            kinds: BTreeMap::new(),
            nodes: BTreeMap::new(),
            nowhere: Sum::default(),
            classes: BTreeMap::new(),
            largest: Largest { most: top, areas: Vec::new() },
            pages_of: [0; 5],
        }
    }

    fn add(&mut self, area: &Area) {
        let sum = Sum::of(area);
        self.hidden += u64::from(area.addresses.is_none());
        let start = area.addresses.as_ref().map_or(0, |addresses| addresses.start);
        self.spans.push(Span { start, bytes: area.size, words: area.words });
        if !area.is_live() {
            return self.unpurged.add(sum);
        }
        self.live.add(sum);
        self.guards += u64::from(area.has_guard());
        if let Some(shift) = area.page_shift() {
            self.pages_of[shift as usize - 12] += 1;
        }
        self.add_caller(area, sum);
        self.kinds.entry(area.words).or_default().add(sum);
        self.classes.entry(class(area.size)).or_default().add(sum);
        self.add_nodes(area);
        self.largest.add(self.live.areas, area);
    }

    fn add_caller(&mut self, area: &Area, sum: Sum) {
        let module = area.caller.as_ref().and_then(|caller| caller.module.as_deref());
        let function = area.caller.as_ref().map(|caller| caller.function()).filter(|function| *function != "?");
        match (function, module) {
            (Some(function), Some(module)) => add_to(&mut self.callers, &format!("{function} [{module}]"), sum),
            (function, _) => add_to(&mut self.callers, function.unwrap_or(NO_CALLER), sum),
        }
        add_to(&mut self.modules, module.unwrap_or(if function.is_some() { BUILT_IN } else { NO_CALLER }), sum);
    }

    fn add_nodes(&mut self, area: &Area) {
        let Some(mut left) = area.pages.filter(|pages| *pages > 0) else { return };
        for &(node, pages) in &area.nodes {
            self.nodes.entry(node).or_default().add(Sum { areas: 1, bytes: 0, pages });
            left = left.saturating_sub(pages);
        }
        if left > 0 {
            self.nowhere.add(Sum { areas: 1, bytes: 0, pages: left });
        }
    }

    /// Bytes of a page, as most areas show it.
    pub fn page_bytes(&self) -> u64 {
        let most = (0..self.pages_of.len()).rev().max_by_key(|shift| self.pages_of[*shift]);
        4096 << most.unwrap_or(0)
    }

    /// Bytes of `pages`.
    pub fn memory(&self, pages: u64) -> u64 {
        pages.saturating_mul(self.page_bytes())
    }

    /// Addresses of live areas without their guards.
    pub fn bytes_without_guards(&self) -> u64 {
        self.live.bytes.saturating_sub(self.memory(self.guards))
    }

    /// The largest live areas, the largest first.
    pub fn largest(&self) -> impl Iterator<Item = &Area> {
        self.largest.areas.iter().map(|(_, area)| area)
    }

    /// The sums by something: those of nodes and sizes in their order, others by bytes.
    /// The bytes of a node are those of its pages.
    pub fn rows(&self, by: By) -> Vec<Row> {
        let row = |(name, sum): (String, &Sum)| Row { name, sum: *sum };
        match by {
            By::Caller => by_bytes(self.callers.iter().map(|(name, sum)| row((name.clone(), sum))).collect()),
            By::Module => by_bytes(self.modules.iter().map(|(name, sum)| row((name.clone(), sum))).collect()),
            By::Kind => by_bytes(self.kinds.iter().map(|(words, sum)| row((words.to_string(), sum))).collect()),
            By::Size => self.classes.iter().map(|(class, sum)| row((power(*class), sum))).collect(),
            By::Node => {
                let nodes = self.nodes.iter().map(|(node, sum)| row((format!("N{node}"), sum)));
                let nowhere = (self.nowhere.areas > 0).then(|| row((NO_NODE.to_owned(), &self.nowhere)));
                let mut rows: Vec<Row> = nodes.chain(nowhere).collect();
                rows.iter_mut().for_each(|row| row.sum.bytes = self.memory(row.sum.pages));
                rows
            }
        }
    }
}

fn add_to(groups: &mut BTreeMap<String, Sum>, name: &str, sum: Sum) {
    match groups.get_mut(name) {
        Some(group) => group.add(sum),
        None => drop(groups.insert(name.to_owned(), sum)),
    }
}

fn by_bytes(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(|a, b| b.sum.bytes.cmp(&a.sum.bytes).then_with(|| a.name.cmp(&b.name)));
    rows
}

/// The logarithm of `size`, rounded up.
pub fn class(size: u64) -> u32 {
    u64::BITS - size.saturating_sub(1).leading_zeros()
}

/// 2 to the power of `shift` bytes.
pub fn power(shift: u32) -> String {
    let unit = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][shift as usize / 10];
    format!("up to {} {unit}", 1u64 << (shift % 10))
}
