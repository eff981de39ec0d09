//! Enums with one word for each value: on the wire, in the configuration, in metrics, or for people.

/// Declares an enum and the method that gives a value's word, so that a value is written once:
/// `enum Name { Value = "word", } fn method;`. `Name::ALL` has the values in the order of their
/// declaration.
macro_rules! vocabulary {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $name:ident { $($(#[$note:meta])* $value:ident = $word:literal,)+ }
        $(#[$purpose:meta])*
        $reach:vis fn $method:ident;
    ) => {
        $(#[$attribute])*
        $visibility enum $name { $($(#[$note])* $value,)+ }

        impl $name {
            /// All values, in the order of their declaration.
            $visibility const ALL: [Self; [$($word),+].len()] = [$(Self::$value),+];

            $(#[$purpose])*
            #[must_use]
            $reach const fn $method(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)+
                }
            }
        }
    };
}
