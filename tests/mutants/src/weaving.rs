//! Writes the source again, with a choice at each place that a mutant changes.

use std::ops::Range;

use crate::places::{Change, Kind, Place};

/// Where a mutant is in the woven text, in bytes.
pub struct Region {
    pub number: usize,
    /// What runs only if it is on.
    pub own: Range<usize>,
    /// All of the place that it changes.
    pub place: Range<usize>,
}

#[derive(Default)]
pub struct Woven {
    pub text: String,
    pub regions: Vec<Region>,
}

/// `places` are sorted from the outside in.
pub fn weave(source: &str, places: &[Place]) -> Woven {
    let mut loom = Loom { source, places, next: 0, woven: Woven::default() };
    loom.range(0..source.len());
    loom.woven
}

struct Loom<'a> {
    source: &'a str,
    places: &'a [Place],
    /// The first place that is not written yet.
    next: usize,
    woven: Woven,
}

impl Loom<'_> {
    fn plain(&mut self, range: Range<usize>) {
        self.woven.text.push_str(&self.source[range]);
    }

    fn text(&mut self, text: &str) {
        self.woven.text.push_str(text);
    }

    /// Writes a range with the places in it.
    fn range(&mut self, range: Range<usize>) {
        let mut at = range.start;
        while let Some(place) = self.places.get(self.next).filter(|it| it.whole.end <= range.end) {
            self.plain(at..place.whole.start);
            self.next += 1;
            self.place(place);
            at = place.whole.end;
        }
        self.plain(at..range.end);
    }

    fn place(&mut self, place: &Place) {
        let (start, first) = (self.woven.text.len(), self.woven.regions.len());
        match &place.kind {
            Kind::Constant => {}
            Kind::Body => {
                for change in &place.changes {
                    self.text("if crate::mutants::on(");
                    self.number(change);
                    self.text(") { return ");
                    self.own(change, |me| me.text(&change.text));
                    self.text("; } ");
                }
                self.range(place.whole.clone());
            }
            Kind::Binary { left, operator, right } => {
                self.text("(");
                for change in &place.changes {
                    self.condition(change);
                    self.own(change, |me| {
                        me.plain(left.clone());
                        me.text(&format!(" {} ", change.text));
                        me.plain(right.clone());
                    });
                    self.text(") } else ");
                }
                self.text("{ ");
                self.range(left.clone());
                self.plain(left.end..operator.end);
                self.range(operator.end..right.end);
                self.text(" })");
            }
            Kind::Unary { operand } => {
                self.text("(");
                for change in &place.changes {
                    self.condition(change);
                    self.own(change, |me| me.plain(operand.clone()));
                    self.text(") } else ");
                }
                self.text("{ ");
                self.range(place.whole.clone());
                self.text(" })");
            }
            Kind::Arm => {
                for change in &place.changes {
                    self.text(" if !crate::mutants::on(");
                    self.own(change, |me| me.text(&change.number.to_string()));
                    self.text(")");
                }
            }
            Kind::Guard => {
                for change in &place.changes {
                    let otherwise = if change.text == "true" { "" } else { "!" };
                    let and = if change.text == "true" { " || " } else { " && " };
                    self.text(&format!("{otherwise}crate::mutants::on("));
                    self.own(change, |me| me.text(&change.number.to_string()));
                    self.text(&format!("){and}("));
                }
                self.range(place.whole.clone());
                self.text(&")".repeat(place.changes.len()));
            }
            Kind::Fields => {
                self.text("(");
                for change in &place.changes {
                    let (from, to) = change.text.split_once("..").expect("bytes");
                    let field: Range<usize> = from.parse().expect("a byte")..to.parse().expect("a byte");
                    self.condition(change);
                    self.own(change, |me| {
                        me.plain(place.whole.start..field.start);
                        me.plain(field.end..place.whole.end);
                    });
                    self.text(") } else ");
                }
                self.text("{ ");
                self.range(place.whole.clone());
                self.text(" })");
            }
        }
        let end = self.woven.text.len();
        // Inner places were closed before.
        for region in &mut self.woven.regions[first..] {
            if region.place.is_empty() {
                region.place = start..end;
            }
        }
    }

    fn condition(&mut self, change: &Change) {
        self.text("if crate::mutants::on(");
        self.number(change);
        self.text(") { (");
    }

    fn number(&mut self, change: &Change) {
        self.text(&change.number.to_string());
    }

    fn own(&mut self, change: &Change, write: impl FnOnce(&mut Self)) {
        let start = self.woven.text.len();
        write(self);
        let own = start..self.woven.text.len();
        self.woven.regions.push(Region { number: change.number, own, place: 0..0 });
    }
}
