//! What is shown, as JSON. Its names are stable: cli/README.md explains them.

use super::growth::{Change, Growth};
use super::holes::Holes;
use super::summary::Summary;
use crate::listing::area::Area;
use crate::options::show::By;
use crate::options::word;
use serde_json::{Map, Value as Json, json};

/// A listing: its totals, and all sums or those of `by` alone.
pub fn shown(summary: &Summary, by: Option<By>, top: usize) -> Json {
    let mut fields = totals(summary);
    let wanted = By::ALL.into_iter().filter(|one| by.is_none_or(|by| by == *one));
    fields.extend(wanted.map(|by| (format!("by_{}", word(by)), sums(summary, by))));
    if by.is_none() {
        fields.insert("largest".to_owned(), summary.largest().map(area).collect());
        fields.insert("holes".to_owned(), holes(summary, top));
    }
    Json::Object(fields)
}

/// A listing with all its areas, freed ones among them.
pub fn snapshot(summary: &Summary, areas: &[Area], top: usize) -> Json {
    let mut snapshot = shown(summary, None, top);
    snapshot["list"] = areas.iter().map(whole).collect();
    snapshot
}

fn totals(summary: &Summary) -> Map<String, Json> {
    let fields = [
        ("listing", json!(summary.name)),
        ("areas", json!(summary.live.areas)),
        ("bytes", json!(summary.live.bytes)),
        ("bytes_without_guards", json!(summary.bytes_without_guards())),
        ("pages", json!(summary.live.pages)),
        ("page_bytes", json!(summary.page_bytes())),
        ("unpurged_areas", json!(summary.unpurged.areas)),
        ("unpurged_bytes", json!(summary.unpurged.bytes)),
        ("hidden", json!(summary.hidden > 0)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn sums(summary: &Summary, by: By) -> Json {
    let rows = summary.rows(by);
    let row = rows
        .iter()
        .map(|row| json!({ "name": row.name, "areas": row.sum.areas, "bytes": row.sum.bytes, "pages": row.sum.pages }));
    row.collect()
}

fn area(area: &Area) -> Json {
    json!({
        "start": area.addresses.as_ref().map(|addresses| address(addresses.start)),
        "bytes": area.size,
        "caller": area.caller.as_ref().map(ToString::to_string),
        "kind": area.words.to_string(),
        "pages": area.pages,
    })
}

/// All that a listing says of an area.
fn whole(of: &Area) -> Json {
    let mut fields = area(of);
    fields["phys"] = of.phys.map(address).into();
    fields["nodes"] =
        of.nodes.iter().map(|(node, pages)| (format!("N{node}"), json!(pages))).collect::<Map<_, _>>().into();
    fields["freed"] = (!of.is_live()).into();
    fields
}

fn holes(summary: &Summary, top: usize) -> Json {
    if summary.hidden > 0 {
        return Json::Null;
    }
    let holes = Holes::between(&summary.spans, top);
    let largest =
        holes.largest.iter().map(|hole| json!({ "start": address(hole.start), "bytes": hole.end - hole.start }));
    let sizes = holes.rows().map(|row| json!({ "name": row.name, "count": row.sum.areas, "bytes": row.sum.bytes }));
    json!({
        "count": holes.count,
        "bytes": holes.bytes,
        "by_size": sizes.collect::<Json>(),
        "largest": largest.collect::<Json>(),
    })
}

/// An address as text: numbers of JSON may lose its last digits.
fn address(at: u64) -> String {
    format!("{at:#x}")
}

/// What grew and what shrank between two listings.
pub fn grown([before, after]: [&Summary; 2], by: By) -> Json {
    let growth = Growth::between(before, after, by);
    json!({
        "before": totals(before),
        "after": totals(after),
        "by": word(by),
        "grown": growth.grown.iter().map(change).collect::<Json>(),
        "shrunk": growth.shrunk.iter().map(change).collect::<Json>(),
        "same": growth.same,
    })
}

fn change(change: &Change) -> Json {
    let (before, after) = (change.before, change.after);
    json!({
        "name": change.name,
        "new": change.is_new(),
        "gone": change.is_gone(),
        "areas_before": before.areas,
        "areas_after": after.areas,
        "bytes_before": before.bytes,
        "bytes_after": after.bytes,
        "pages_before": before.pages,
        "pages_after": after.pages,
    })
}
