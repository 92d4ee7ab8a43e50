//! The definition of a figure: its name, its HELP text and its kind, in one place.
//!
//! `figures!` declares a struct whose fields are figures, and the table from which /metrics and /info/ read them. The
//! name in /info/ is the field's, unless `as` gives another one. It is the name on /metrics too, unless `in` gives the
//! family there and, where several figures are one family, the label that tells them apart. The HELP text is the
//! field's documentation; the kind is the field's type.

use super::counter::Kind;
use std::sync::Arc;

/// The figures of one writer.
pub trait Figures: Sized + 'static {
    const FIGURES: &'static [Figure<Self>];
}

/// What a figure stands at, all its owners together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// In /info/.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub value: u64,
}

/// Where a figure stands on /metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Without the prefix `rainbow_` and the suffix `_total`.
    pub family: &'static str,
    /// Its name and its value.
    pub label: Option<(&'static str, &'static str)>,
}

/// The definition of a figure of `Owner`.
pub struct Figure<Owner> {
    pub name: &'static str,
    pub exported: Exported,
    pub help: &'static str,
    pub kind: Kind,
    pub read: fn(&Owner) -> u64,
}

impl<Owner> Figure<Owner> {
    fn total(&self, owners: &[Arc<Owner>]) -> Sample {
        let value = owners.iter().map(|owner| (self.read)(owner)).sum();
        Sample { name: self.name, help: self.help, kind: self.kind, value }
    }
}

/// Each figure of the owners, added up over them.
pub fn totals<Owner: Figures>(owners: &[Arc<Owner>]) -> impl Iterator<Item = Sample> {
    Owner::FIGURES.iter().map(|figure| figure.total(owners))
}

/// Fields under `unexported` are read by /info/ and by tests; they need not be numbers.
macro_rules! figures {
    (
        $(#[$meta:meta])*
        pub struct $Owner:ident {
            $($(#[doc = $doc:literal])+ $field:ident: $Type:ident
                $(as $name:literal)? $(in $family:literal $($label:ident $value:literal)?)?,)+
        }
        $(unexported {
            $($(#[doc = $other_doc:literal])+ $other:ident: $Other:ident,)+
        })?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $Owner {
            $($(#[doc = $doc])+ pub $field: $Type,)+
            $($($(#[doc = $other_doc])+ pub $other: $Other,)+)?
        }

        impl $crate::metrics::figure::Figures for $Owner {
            const FIGURES: &'static [$crate::metrics::figure::Figure<$Owner>] = &[
                $($crate::metrics::figure::Figure {
                    name: $crate::metrics::figure::info_name!($field $($name)?),
                    exported: $crate::metrics::figure::Exported {
                        family: $crate::metrics::figure::family_name!($field $($name)? $(in $family)?),
                        label: $crate::metrics::figure::label!($($($label $value)?)?),
                    },
                    help: concat!($($doc),+).trim_ascii(),
                    kind: <$Type as $crate::metrics::counter::Value>::KIND,
                    read: |owner| $crate::metrics::counter::Value::value(&owner.$field),
                },)+
            ];
        }
    };
}

macro_rules! info_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}

macro_rules! family_name {
    ($field:ident $($name:literal)? in $family:literal) => {
        $family
    };
    ($field:ident $($name:literal)?) => {
        $crate::metrics::figure::info_name!($field $($name)?)
    };
}

macro_rules! label {
    () => {
        None
    };
    ($label:ident $value:literal) => {
        Some((stringify!($label), $value))
    };
}

pub(super) use {family_name, figures, info_name, label};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::counter::{Counter, Gauge};

    figures! {
        pub struct Kettle {
            /// Times it boiled,
            /// in this kitchen.
            boiled: Counter,
            /// Degrees.
            heat: Gauge as "kettle_heat",
            /// Times it had no water.
            dry: Counter in "kettle_failures" reason "dry",
        }
        unexported {
            /// Nobody's business.
            leaks: Counter,
        }
    }

    #[test]
    fn figures_are_added_up_over_their_owners() {
        let kettles = [Arc::<Kettle>::default(), Arc::default()];
        kettles[0].boiled.add(2);
        kettles[1].boiled.add(3);
        kettles[1].heat.set(90);
        kettles[1].leaks.increment();
        let sample = |name, help, kind, value| Sample { name, help, kind, value };
        let boiled = sample("boiled", "Times it boiled, in this kitchen.", Kind::Counter, 5);
        let heat = sample("kettle_heat", "Degrees.", Kind::Gauge, 90);
        let dry = sample("dry", "Times it had no water.", Kind::Counter, 0);
        assert_eq!(totals(&kettles).collect::<Vec<_>>(), [boiled, heat, dry]);
        assert_eq!(kettles[1].leaks.get(), 1);
    }
    #[test]
    fn a_figure_has_its_place_on_the_page() {
        let exported: Vec<_> = Kettle::FIGURES.iter().map(|figure| figure.exported).collect();
        let alone = |family| Exported { family, label: None };
        let dry = Exported { family: "kettle_failures", label: Some(("reason", "dry")) };
        assert_eq!(exported, [alone("boiled"), alone("kettle_heat"), dry]);
        assert_eq!(Kettle::FIGURES[0].help, "Times it boiled, in this kitchen.");
    }
}
