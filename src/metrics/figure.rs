//! The definition of a figure: its name, its HELP text and its kind, in one place.
//!
//! `figures!` declares a struct whose fields are figures, and the table from which /metrics and /info/ read them. The
//! exported name is the field's, unless `as` gives another one; the HELP text is the field's documentation; the kind
//! is the field's type.

use super::counter::Kind;
use std::sync::Arc;

/// The figures of one writer.
pub trait Figures: Sized + 'static {
    const FIGURES: &'static [Figure<Self>];
}

/// What a figure stands at, all its owners together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Without the prefix `rainbow_` and the suffix `_total`.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub value: u64,
}

/// The definition of a figure of `Owner`.
pub struct Figure<Owner> {
    pub name: &'static str,
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
            $($(#[doc = $doc:literal])+ $field:ident: $Type:ident $(as $name:literal)?,)+
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
                    name: $crate::metrics::figure::exported_name!($field $($name)?),
                    help: concat!($($doc),+).trim_ascii(),
                    kind: <$Type as $crate::metrics::counter::Value>::KIND,
                    read: |owner| $crate::metrics::counter::Value::value(&owner.$field),
                },)+
            ];
        }
    };
}

macro_rules! exported_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}

pub(super) use {exported_name, figures};

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
        let boiled =
            Sample { name: "boiled", help: "Times it boiled, in this kitchen.", kind: Kind::Counter, value: 5 };
        let heat = Sample { name: "kettle_heat", help: "Degrees.", kind: Kind::Gauge, value: 90 };
        assert_eq!(totals(&kettles).collect::<Vec<_>>(), [boiled, heat]);
        assert_eq!(kettles[1].leaks.get(), 1);
    }
}
