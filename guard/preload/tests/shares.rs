//! Which allocations are guarded: the share that was asked for, the same ones with the same seed, and no
//! more than may live. A guarded allocation is told by its size, which is exactly what was asked for.

mod common;

use common::*;
use std::path::Path;

const COUNTS: &str = "
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
static void *kept[20000];
int main(int argc, char **argv) {
    int found = 0; unsigned which = 0;
    for (int i = 0; i < 20000; i++) {
        kept[i] = malloc(20);
        int is = malloc_usable_size(kept[i]) == 20;
        found += is; which = which * 31 + is;
        if (argc == 1) free(kept[i]);
    }
    printf(\"%d %u\\n\", found, which);
    return 0;
}
";

/// How many were guarded, and a sum of which.
fn counted(program: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> (usize, String) {
    let end = ran(guarded(program, settings).args(arguments));
    assert_eq!((text(&end.stderr).as_str(), end.status.code()), ("", Some(0)));
    let out = text(&end.stdout);
    let (found, which) = out.trim().split_once(' ').expect("two numbers");
    (found.parse().expect("a number"), which.to_owned())
}

#[test]
fn the_share_follows_from_the_setting_and_which_from_the_seed() {
    let Some((_folder, program)) = compiled(COUNTS) else { return };
    let with = |seed| counted(&program, &[], &[("VMALLOC_GUARD", "every=20"), ("VMALLOC_GUARD_SEED", seed)]);
    let first = with("7");
    // 20,000 of which a twentieth: 1000, and five deviations of 31.
    assert!((845..=1155).contains(&first.0), "{first:?}");
    assert_eq!(first, with("7"));
    assert_ne!(first.1, with("8").1);
    assert_eq!(counted(&program, &[], &[("VMALLOC_GUARD", "all")]).0, 20_000);
}

#[test]
fn no_more_live_than_may() {
    let Some((_folder, program)) = compiled(COUNTS) else { return };
    let (found, _) = counted(&program, &["keep"], &[("VMALLOC_GUARD", "all"), ("VMALLOC_GUARD_LIVE", "500")]);
    assert!((490..=500).contains(&found), "{found}");
}
