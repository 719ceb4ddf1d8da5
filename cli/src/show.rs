//! `vmalloc show`: who holds a kernel's vmalloc space.
//!
//! ```text
//!   summary   a listing, summed up while it is read      holes    addresses between areas
//!   growth    what changed between two                   tables   for people
//!   json      for programs                               svg      the picture
//! ```

mod growth;
mod holes;
mod json;
mod summary;
mod svg;
mod tables;
#[cfg(test)]
mod tests;

use crate::listing::area::Area;
use crate::listing::reader::Areas;
use crate::options::show::{By, Show};
use crate::trace::error::TraceError;
use crate::trace::source;
use anyhow::{Result, anyhow, ensure};
use std::io::ErrorKind;
use std::path::Path;
use summary::Summary;

/// The largest areas and holes that a snapshot names.
const SNAPSHOT_TOP: usize = 20;
/// This machine's listing.
const OWN: &str = "/proc/vmallocinfo";

/// What was read, and how to show it.
pub struct Shown {
    options: Show,
    first: Summary,
    later: Option<Summary>,
}

/// Reads all that is given.
pub fn prepare(options: Show) -> Result<Shown> {
    let both = [&options.listing, &options.later];
    ensure!(both.iter().any(|path| path.as_deref() != Some(Path::new("-"))), "stdin is one listing, not two");
    let top = options.top as usize;
    let first = match &options.listing {
        Some(path) => summed(path, top)?,
        None => summed(Path::new(OWN), top).map_err(|error| match error {
            TraceError::Open { ref cause, .. } if cause.kind() == ErrorKind::PermissionDenied => {
                anyhow!("{error}; only root may: sudo cat {OWN} | vmalloc show -")
            }
            error => error.into(),
        })?,
    };
    let later = options.later.as_deref().map(|path| summed(path, top)).transpose()?;
    Ok(Shown { options, first, later })
}

fn summed(path: &Path, top: usize) -> Result<Summary, TraceError> {
    let (name, from) = source::open(path)?;
    let summary = Summary::new(&name, Areas::new(&name, from)?, top)?;
    if summary.spans.is_empty() { Err(TraceError::NoAreas { file: summary.name }) } else { Ok(summary) }
}

/// A picture of the areas that an instance of ours has listed, under a title.
pub fn drawn(title: &str, listing: &str) -> Result<String, TraceError> {
    Ok(svg::draw(&Summary::new(title, Areas::new(title, listing.as_bytes())?, 0)?))
}

/// All that such a listing says, as JSON.
pub fn snapshot(title: &str, listing: &str) -> Result<String> {
    let areas = || Areas::new(title, listing.as_bytes());
    let summary = Summary::new(title, areas()?, SNAPSHOT_TOP)?;
    let list: Vec<Area> = areas()?.collect::<Result<_, _>>()?;
    Ok(serde_json::to_string_pretty(&json::snapshot(&summary, &list, SNAPSHOT_TOP))? + "\n")
}

impl Shown {
    /// Draws and prints.
    pub fn run(&self) -> Result<bool> {
        if let Some(path) = &self.options.svg {
            crate::output::write(path, &svg::draw(&self.first))?;
        }
        super::print(&self.text()?)?;
        Ok(true)
    }

    fn text(&self) -> Result<String> {
        let (top, by, first) = (self.options.top as usize, self.options.by, &self.first);
        if self.options.json {
            let report = match &self.later {
                Some(later) => json::grown([first, later], by.unwrap_or(By::Caller)),
                None => json::shown(first, by, top),
            };
            return Ok(serde_json::to_string_pretty(&report)? + "\n");
        }
        let mut out = String::new();
        match &self.later {
            Some(later) => tables::write_growth(&mut out, [first, later], by.unwrap_or(By::Caller), top)?,
            None => tables::write(&mut out, first, by, top)?,
        }
        Ok(out)
    }
}
