//! The table: every setting once, with its documentation, type and default. Parsing, `--help`, the documented file and
//! the admin view are readings of it.

use crate::config::value::Given;

/// One setting as the table knows it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    /// What it means and in which unit; one line of text for each line of the source.
    pub doc: &'static str,
    /// What values it takes.
    pub kind: &'static str,
    /// Its flag without dashes, and the name of its value there.
    pub flag: Option<(&'static str, &'static str)>,
    /// A TOML value to show where the default is "unset".
    pub example: Option<&'static str>,
    pub secret: bool,
    /// Takes several values.
    pub list: bool,
}

impl Key {
    /// The documentation's lines without the space that a doc comment begins with.
    pub fn doc_lines(&self) -> impl Iterator<Item = &'static str> {
        self.doc.lines().map(str::trim)
    }
}

/// A struct whose fields are settings.
pub trait Section {
    fn keys(&self) -> &'static [Key];

    /// `None` when there is no such key.
    fn set(&mut self, key: &str, given: &Given) -> Option<Result<(), String>>;

    /// The value as TOML; `None` when unset or unknown.
    fn get(&self, key: &str) -> Option<String>;
}

/// An entry of a list like `[[namespace]]`: its name, and its settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Named<S> {
    pub name: String,
    pub options: S,
}

/// A list of [`Named`] entries, whatever their settings.
pub trait Entries {
    fn push(&mut self);

    fn last_mut(&mut self) -> Option<(&mut String, &mut dyn Section)>;

    fn all(&self) -> Vec<(&str, &dyn Section)>;

    /// The settings of an entry that sets nothing.
    fn defaults(&self) -> Box<dyn Section>;
}

impl<S: Section + Default + 'static> Entries for Vec<Named<S>> {
    fn push(&mut self) {
        Vec::push(self, Named::default());
    }

    fn last_mut(&mut self) -> Option<(&mut String, &mut dyn Section)> {
        let Named { name, options } = <[Named<S>]>::last_mut(self)?;
        Some((name, options))
    }

    fn all(&self) -> Vec<(&str, &dyn Section)> {
        self.iter().map(|entry| (&*entry.name, &entry.options as &dyn Section)).collect()
    }

    fn defaults(&self) -> Box<dyn Section> {
        Box::new(S::default())
    }
}

/// Implements [`Section`] for a struct, every one of whose fields must be listed.
macro_rules! section {
    ($type:ident {
        $($(#[doc = $doc:literal])+ $name:ident : $setting:ty
            $(, flag $flag:literal $value:literal)? $(, example $example:literal)?;)*
    } $(but [$($rest:ident),* $(,)?])?) => {
        impl $crate::config::table::Section for $type {
            fn keys(&self) -> &'static [$crate::config::table::Key] {
                // Destructured in full: a field that is added and not listed does not compile.
                let $type { $($name: _,)* $($($rest: _,)*)? } = self;
                const KEYS: &[$crate::config::table::Key] = &[$($crate::config::table::Key {
                    name: stringify!($name),
                    doc: concat!($($doc, "\n"),+),
                    kind: <$setting as $crate::config::value::Setting>::KIND,
                    flag: $crate::config::table::optional!($(($flag, $value))?),
                    example: $crate::config::table::optional!($($example)?),
                    secret: <$setting as $crate::config::value::Setting>::SECRET,
                    list: <$setting as $crate::config::value::Setting>::LIST,
                },)*];
                KEYS
            }

            fn set(
                &mut self,
                key: &str,
                given: &$crate::config::value::Given,
            ) -> Option<Result<(), String>> {
                match key {
                    $(stringify!($name) => {
                        Some($crate::config::value::Setting::read(given).map(|read| self.$name = read))
                    })*
                    _ => None,
                }
            }

            fn get(&self, key: &str) -> Option<String> {
                match key {
                    $(stringify!($name) => $crate::config::value::Setting::write(&self.$name),)*
                    _ => None,
                }
            }
        }
    };
}

/// Defines a struct of settings with its defaults, and the table's rows for it.
macro_rules! settings {
    ($(#[doc = $struct_doc:literal])+ pub struct $type:ident {
        $($(#[doc = $doc:literal])+ pub $name:ident : $setting:ty = $default:expr
            $(, flag $flag:literal $value:literal)? $(, example $example:literal)?;)*
    } $(with { $(pub $section:ident : $section_type:ty,)* })?) => {
        $(#[doc = $struct_doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $type {
            $($(#[doc = $doc])+ pub $name: $setting,)*
            $($(pub $section: $section_type,)*)?
        }

        impl Default for $type {
            fn default() -> Self {
                $type {
                    $($name: $default,)*
                    $($($section: Default::default(),)*)?
                }
            }
        }

        $crate::config::table::section!($type {
            $($(#[doc = $doc])+ $name: $setting $(, flag $flag $value)? $(, example $example)?;)*
        } $(but [$($section),*])?);
    };
}

macro_rules! optional {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

pub(crate) use {optional, section, settings};
