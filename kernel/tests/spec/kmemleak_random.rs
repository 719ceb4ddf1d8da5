//! Random graphs beside a search too simple to be wrong.

use crate::kmemleak::*;
use std::collections::BTreeMap;

/// Words of a node that may hold pointers.
const LINKS: usize = 6;

/// What the test knows of an object.
#[derive(Clone, Default)]
struct Node {
    area: bool,
    size: usize,
    links: [usize; LINKS],
}

struct Graph<'k, 'v> {
    rig: &'k Rig,
    kernel: &'k Tested<'v>,
    nodes: BTreeMap<usize, Node>,
    rng: u64,
}

impl Graph<'_, '_> {
    fn below(&mut self, n: usize) -> usize {
        self.rng = self.rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.rng >> 33) as usize % n
    }

    fn any(&mut self) -> usize {
        let n = self.below(self.nodes.len());
        *self.nodes.keys().nth(n).expect("there are so many")
    }

    fn make(&mut self) {
        let area = self.below(4) == 0;
        let size = if area { pages(1 + self.below(3)) } else { [64, 96, 128, 1024, 4096][self.below(5)] };
        let made = if area { self.kernel.vzalloc(size) } else { self.kernel.kzalloc(size, GFP) };
        self.nodes.insert(made.map(number).unwrap(), Node { area, size, ..Node::default() });
    }

    fn free(&mut self) {
        let gone = self.any();
        let node = self.nodes.remove(&gone).unwrap();
        if node.area { vfree(self.kernel, gone) } else { kfree(self.kernel, gone) }
    }

    /// A word of some object becomes a pointer into another, or nothing. Half of them lie at an object's end.
    fn link(&mut self) {
        let (from, to, link, offset) = (self.any(), self.any(), self.below(LINKS), self.below(64));
        let word = if self.below(3) == 0 { 0 } else { to + offset };
        let node = self.nodes.get_mut(&from).unwrap();
        node.links[link] = word;
        let place = if link % 2 == 0 { link * 8 } else { node.size - 8 * link };
        if node.area { self.rig.store(from + place, word) } else { set(from, place / 8, word) }
    }

    fn holding(&self, word: usize) -> Option<usize> {
        let (&start, node) = self.nodes.range(..=word).next_back()?;
        (word < start + node.size).then_some(start)
    }

    /// What the data leads to.
    fn reached(&self) -> Vec<usize> {
        let mut found: Vec<usize> = self.rig.data.iter().filter_map(|word| self.holding(word.load(SeqCst))).collect();
        let mut seen = 0;
        while seen < found.len() {
            let links = self.nodes[&found[seen]].links;
            for to in links.into_iter().filter_map(|word| self.holding(word)) {
                if !found.contains(&to) {
                    found.push(to);
                }
            }
            seen += 1;
        }
        found
    }
}

#[test]
fn in_random_graphs_what_is_white_is_what_a_search_does_not_reach() {
    let rig = rig();
    let kernel = rig.kernel();
    let mut graph = Graph { rig: &rig, kernel: &kernel, nodes: BTreeMap::new(), rng: 7 };
    let (mut white, mut grey) = (0, 0);
    (0..100).for_each(|_| graph.make());
    for round in 0..100 {
        for _ in 0..15 {
            match graph.below(4) {
                0 => graph.make(),
                1 if graph.nodes.len() > 80 => graph.free(),
                _ => graph.link(),
            }
        }
        let (n, to, offset) = (graph.below(8), graph.any(), graph.below(60));
        rig.point(n, to + offset);
        rig.scan(&kernel);
        let reached = graph.reached();
        for &start in graph.nodes.keys() {
            let expected = if reached.contains(&start) { Colour::Grey } else { Colour::White };
            assert_eq!(rig.colour(start), Some(expected), "round {round}: {start:#x}");
            if expected == Colour::Grey { grey += 1 } else { white += 1 }
        }
        assert_eq!(rig.leaks().len(&rig.sim), graph.nodes.len());
    }
    assert!(white > 1000 && grey > 1000, "{white} white, {grey} grey");
    while !graph.nodes.is_empty() {
        graph.free();
    }
    assert_eq!(rig.leaks().len(&rig.sim), 0);
}
