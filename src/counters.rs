//! Counters: one declaration makes a counter known everywhere.
//!
//! A counter has a name, a kind, a unit and a text that helps; `counters!` declares a set of them.
//! The set is a plain struct of `u64` fields. To count is to add to a field, and costs an addition.
//! A reader iterates over `(description, value)` of every counter that is declared. So a new counter
//! is the line that declares it and the line that counts it.
//!
//! Sets are declared where they are counted, and published by `exec`.

/// What a number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// How often something has happened since the start: it only grows.
    Counter,
    /// What is now: it may fall.
    Gauge,
}

impl Kind {
    /// The name that schemas and metrics use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Things or events: what the name says.
    Count,
    /// Bytes.
    Bytes,
    /// Nanoseconds.
    Nanoseconds,
}

impl Unit {
    /// The name that schemas and metrics use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Nanoseconds => "ns",
        }
    }
}

/// What a counter means to an operator, besides what it says: readers put the counters of one meaning
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meaning {
    /// Nothing more.
    Plain,
    /// A datagram that arrived was thrown away by the program, or at its socket.
    Dropped,
    /// A datagram that arrived was lost in the kernel: a ring of AF_XDP had no room.
    Lost,
    /// A client was refused because the worker had no room.
    Refused,
}

/// A counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name: that of its field.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// What is counted.
    pub unit: Unit,
    /// What it means to an operator.
    pub meaning: Meaning,
    /// What it says: the documentation of its field.
    pub help: &'static str,
}

/// A set of counters, as it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name: in JSON, and in front of the names of its counters elsewhere.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Who counts.
    pub counted_by: &'static str,
    /// Its counters, in order.
    pub counters: &'static [Description],
    /// False if it sums up things that are over, of which no gauge says anything.
    pub has_gauges: bool,
}

impl Set {
    /// True if the set says something of this counter.
    #[must_use]
    pub fn tells(&self, counter: &Description) -> bool {
        self.has_gauges || counter.kind == Kind::Counter
    }
}

/// Declares a set of counters: a struct with a field for each, and what is known of each.
///
/// ```text
/// counters! {
///     /// What the set is about.
///     pub struct Name, counted by "who counts" {
///         /// The help text, which is the documentation of the field.
///         name: Counter, Bytes;
///         /// A counter with a meaning.
///         drop_broken: Counter, Count, Dropped;
///     }
/// }
/// ```
macro_rules! counters {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident, counted by $who:literal {
            $(
                $(#[doc = $help:literal])+
                $field:ident: $kind:ident, $unit:ident $(, $meaning:ident)?;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $(
                $(#[doc = $help])+
                #[doc = ""]
                #[doc = concat!(stringify!($kind), ", unit: ", stringify!($unit), ".")]
                pub $field: u64,
            )+
        }

        impl $name {
            /// Every counter of the set, in order.
            pub const DESCRIPTIONS: &'static [$crate::counters::Description] = &[$(
                $crate::counters::Description {
                    name: stringify!($field),
                    kind: $crate::counters::Kind::$kind,
                    unit: $crate::counters::Unit::$unit,
                    meaning: $crate::counters::counters!(@meaning $($meaning)?),
                    help: concat!($($help),+).trim_ascii(),
                },
            )+];
        }

        $crate::counters::counters!(@common $name, $who, $($about)+);

        impl $name {
            /// The values, in the order of the descriptions.
            #[must_use]
            pub const fn values(&self) -> [u64; Self::LEN] {
                let Self { $( $field, )+ } = *self;
                [$( $field, )+]
            }

            /// The set with these values, in the order of the descriptions.
            #[must_use]
            pub const fn from_values(values: [u64; Self::LEN]) -> Self {
                let [$( $field, )+] = values;
                Self { $( $field, )+ }
            }
        }
    };
    (@meaning) => { $crate::counters::Meaning::Plain };
    (@meaning $meaning:ident) => { $crate::counters::Meaning::$meaning };
    (@common $name:ident, $who:literal, $($about:literal)+) => {
        impl $name {
            /// What the set is about.
            pub const ABOUT: &'static str = concat!($($about),+).trim_ascii();
            /// Who counts.
            pub const COUNTED_BY: &'static str = $who;
            /// How many counters there are.
            pub const LEN: usize = Self::DESCRIPTIONS.len();

            /// Every counter with its value.
            pub fn iter(
                &self,
            ) -> impl Iterator<Item = (&'static $crate::counters::Description, u64)> + use<> {
                Self::DESCRIPTIONS.iter().zip(self.values())
            }

            /// Adds the values of another one, gauges too: of two workers, for example.
            pub fn add(&mut self, other: &Self) {
                let mut sum = self.values();
                for (sum, value) in sum.iter_mut().zip(other.values()) {
                    *sum += value;
                }
                *self = Self::from_values(sum);
            }

            /// Adds the counters of another set that has ended, and leaves out its gauges.
            pub fn add_ended(&mut self, other: &Self) {
                let mut sum = self.values();
                for (sum, (counter, value)) in sum.iter_mut().zip(other.iter()) {
                    if counter.kind == $crate::counters::Kind::Counter {
                        *sum += value;
                    }
                }
                *self = Self::from_values(sum);
            }

            /// The sum of the counters with this meaning.
            #[must_use]
            pub fn sum_of(&self, meaning: $crate::counters::Meaning) -> u64 {
                let all = self.iter().filter(|(counter, _)| counter.meaning == meaning);
                all.map(|(_, value)| value).sum()
            }
        }
    };
}
pub(crate) use counters;

/// Declares an enum and the set of counters that says how often each of its variants was met.
///
/// ```text
/// reasons! {
///     /// What the enum is about.
///     pub enum Reason(u8);
///     /// What the set is about.
///     pub struct ReasonCounters, counted by "who counts" {
///         /// The help text, which is the documentation of the variant.
///         TooLong = "too-long";
///     }
/// }
/// ```
macro_rules! reasons {
    (
        $(#[$about:meta])+
        pub enum $name:ident($repr:ident);
        $(#[doc = $set_about:literal])+
        pub struct $set:ident, counted by $who:literal {
            $(
                $(#[doc = $help:literal])+
                $variant:ident = $text:literal;
            )+
        }
    ) => {
        $(#[$about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($repr)]
        pub enum $name {
            $(
                $(#[doc = $help])+
                $variant,
            )+
        }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; $set::LEN] = [$( Self::$variant, )+];

            /// The name that tables and JSON use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $text, )+
                }
            }
        }

        $(#[doc = $set_about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $set {
            counts: [u64; $set::LEN],
        }

        impl $set {
            /// Every counter of the set, in order.
            pub const DESCRIPTIONS: &'static [$crate::counters::Description] = &[$(
                $crate::counters::Description {
                    name: $text,
                    kind: $crate::counters::Kind::Counter,
                    unit: $crate::counters::Unit::Count,
                    meaning: $crate::counters::Meaning::Plain,
                    help: concat!($($help),+).trim_ascii(),
                },
            )+];

            /// How often this one was met.
            #[must_use]
            pub const fn get(&self, reason: $name) -> u64 {
                self.counts[reason as usize]
            }

            /// Counts one more.
            pub const fn count(&mut self, reason: $name) {
                self.counts[reason as usize] += 1;
            }

            /// The values, in the order of the descriptions.
            #[must_use]
            pub const fn values(&self) -> [u64; Self::LEN] {
                self.counts
            }

            /// The set with these values, in the order of the descriptions.
            #[must_use]
            pub const fn from_values(counts: [u64; Self::LEN]) -> Self {
                Self { counts }
            }
        }

        $crate::counters::counters!(@common $set, $who, $($set_about)+);
    };
}
pub(crate) use reasons;

#[cfg(test)]
#[expect(unreachable_pub, reason = "what the macro declares is public")]
mod tests {
    use super::*;

    counters! {
        /// Examples of counters,
        /// in two lines.
        pub struct Examples, counted by "a test" {
            /// Things.
            things: Counter, Count;
            /// Bytes that are
            /// held now.
            held_bytes: Gauge, Bytes;
            /// Times.
            wait_ns: Counter, Nanoseconds;
            /// Thrown away.
            thrown: Counter, Count, Dropped;
        }
    }

    reasons! {
        /// Why.
        pub enum Reason(u8);
        /// How often each reason was met.
        pub struct Reasons, counted by "a test" {
            /// Too long.
            TooLong = "too-long";
            /// Too short.
            TooShort = "too-short";
        }
    }

    #[test]
    fn a_reason_is_a_counter() {
        let mut set = Reasons::default();
        set.count(Reason::TooShort);
        let mut other = Reasons::default();
        other.add_ended(&set);
        set.add(&other);
        let told: Vec<_> = set.iter().map(|(counter, value)| (counter.name, value)).collect();
        assert_eq!(told, [("too-long", 0), ("too-short", 2)]);
        assert_eq!(
            (Reasons::ABOUT, Reasons::COUNTED_BY),
            ("How often each reason was met.", "a test")
        );
        assert_eq!((set.sum_of(Meaning::Plain), set.sum_of(Meaning::Lost)), (2, 0));
        assert_eq!((Reason::ALL.len(), set.get(Reason::TooShort)), (2, 2));
        assert_eq!(Reason::ALL.map(Reason::name), ["too-long", "too-short"]);
        assert_eq!(Reasons::DESCRIPTIONS[0].help, "Too long.");
    }

    #[test]
    fn what_is_over_leaves_no_gauge() {
        let one = Examples { things: 1, held_bytes: 2, wait_ns: 3, thrown: 4 };
        let mut ended = Examples::default();
        ended.add_ended(&one);
        ended.add_ended(&one);
        assert_eq!(ended.values(), [2, 0, 6, 8]);
    }

    #[test]
    fn a_declaration_is_all_that_a_counter_needs() {
        let mut set = Examples { things: 1, held_bytes: 2, wait_ns: 3, thrown: 4 };
        assert_eq!(Examples::ABOUT, "Examples of counters, in two lines.");
        assert_eq!((Examples::COUNTED_BY, Examples::LEN), ("a test", 4));
        let told: Vec<_> = set.iter().map(|(counter, value)| (counter.name, value)).collect();
        assert_eq!(told, [("things", 1), ("held_bytes", 2), ("wait_ns", 3), ("thrown", 4)]);
        let held = Examples::DESCRIPTIONS[1];
        assert_eq!(
            (held.kind, held.unit, held.meaning),
            (Kind::Gauge, Unit::Bytes, Meaning::Plain)
        );
        assert_eq!(held.help, "Bytes that are held now.");
        set.add(&set.clone());
        assert_eq!(set.values(), [2, 4, 6, 8]);
        assert_eq!(set.sum_of(Meaning::Dropped), 8);
        assert_eq!(Examples::from_values(set.values()), set);
    }
}
