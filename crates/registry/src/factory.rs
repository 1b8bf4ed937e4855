//! Plugins that are compiled in, by type and version.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use plugin_core::{
    BoxError, Health, LoadError, Manifest, Plugin, PluginContext, PluginError, PluginLoader, PluginName,
    PluginSource, PluginType, Reconfigured,
};
use semver::Version;

type Make = Arc<dyn Fn() -> Result<Arc<dyn Plugin>, BoxError> + Send + Sync>;

/// Makes plugins of the types that are compiled in. A clone is the same factory.
///
/// A type may be there in several versions; the newest that fits is taken.
#[derive(Clone, Default)]
pub struct PluginFactory {
    types: Arc<RwLock<BTreeMap<String, BTreeMap<Version, Entry>>>>,
}

struct Entry {
    manifest: Manifest,
    make: Make,
}

/// Why a type was not taken.
#[derive(Debug, thiserror::Error)]
pub enum FactoryError {
    /// Of the same version, too.
    #[error("plugin type `{type_name}` {version} is there already")]
    Exists {
        /// The type.
        type_name: String,
        /// The version.
        version: Version,
    },
    /// The sample that tells the type's manifest could not be made.
    #[error("make a sample of plugin type `{type_name}`")]
    Sample {
        /// The type.
        type_name: String,
        /// Why not.
        #[source]
        source: BoxError,
    },
}

impl PluginFactory {
    /// A factory without types.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a type. Its version is that of the plugins that `make` gives; one is made now to ask it.
    ///
    /// # Errors
    ///
    /// [`FactoryError::Exists`] if the type is there in this version.
    pub fn add<P: Plugin>(
        &self,
        type_name: &str,
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> Result<(), FactoryError> {
        self.add_fallible(type_name, move || Ok(Arc::new(make()) as Arc<dyn Plugin>))
    }

    /// Adds a type whose plugins cannot always be made.
    ///
    /// # Errors
    ///
    /// Those of [`add`](PluginFactory::add), and [`FactoryError::Sample`] if `make` fails now.
    pub fn add_fallible(
        &self,
        type_name: &str,
        make: impl Fn() -> Result<Arc<dyn Plugin>, BoxError> + Send + Sync + 'static,
    ) -> Result<(), FactoryError> {
        let sample =
            make().map_err(|source| FactoryError::Sample { type_name: type_name.to_owned(), source })?;
        let manifest = sample.manifest();
        let mut types = self.types.write().unwrap_or_else(PoisonError::into_inner);
        let versions = types.entry(type_name.to_owned()).or_default();
        let version = manifest.version.clone();
        if versions.contains_key(&version) {
            return Err(FactoryError::Exists { type_name: type_name.to_owned(), version });
        }
        versions.insert(version, Entry { manifest, make: Arc::new(make) });
        Ok(())
    }

    fn find(&self, source: &PluginSource) -> Result<Make, LoadError> {
        let types = self.types.read().unwrap_or_else(PoisonError::into_inner);
        let type_name = || source.type_name.clone();
        let versions = types.get(&source.type_name).ok_or_else(|| LoadError::UnknownType(type_name()))?;
        let fits = |version: &&Version| source.version.as_ref().is_none_or(|wanted| wanted.matches(version));
        // A pre-release is taken only where the requirement names one, or nothing else is there.
        let newest = versions
            .keys()
            .rev()
            .filter(fits)
            .min_by_key(|version| source.version.is_none() && !version.pre.is_empty());
        match newest.and_then(|version| versions.get(version)) {
            Some(entry) => Ok(entry.make.clone()),
            None => Err(LoadError::NoVersion {
                type_name: type_name(),
                requirement: source.version.clone().unwrap_or_default(),
                available: versions.keys().map(ToString::to_string).collect(),
            }),
        }
    }
}

#[async_trait]
impl PluginLoader for PluginFactory {
    fn name(&self) -> &str {
        "factory"
    }

    fn types(&self) -> Vec<PluginType> {
        let types = self.types.read().unwrap_or_else(PoisonError::into_inner);
        types
            .iter()
            .flat_map(|(type_name, versions)| {
                versions.values().map(|entry| PluginType {
                    type_name: type_name.clone(),
                    manifest: entry.manifest.clone(),
                    loader: "factory".to_owned(),
                })
            })
            .collect()
    }

    async fn load(&self, source: &PluginSource) -> Result<Arc<dyn Plugin>, LoadError> {
        let make = self.find(source)?;
        let plugin = make()
            .map_err(|error| LoadError::Failed { type_name: source.type_name.clone(), source: error })?;
        Ok(match &source.name {
            Some(name) if plugin.manifest().name != *name => Arc::new(Renamed { name: name.clone(), plugin }),
            _ => plugin,
        })
    }
}

impl fmt::Debug for PluginFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types = self.types.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(types.keys()).finish()
    }
}

/// An instance under another name than its type's own.
struct Renamed {
    name: PluginName,
    plugin: Arc<dyn Plugin>,
}

#[async_trait]
impl Plugin for Renamed {
    fn manifest(&self) -> Manifest {
        Manifest { name: self.name.clone(), ..self.plugin.manifest() }
    }

    async fn initialize(&self, ctx: PluginContext) -> Result<(), PluginError> {
        self.plugin.initialize(ctx).await
    }

    async fn start(&self, ctx: PluginContext) -> Result<(), PluginError> {
        self.plugin.start(ctx).await
    }

    async fn stop(&self, ctx: PluginContext) -> Result<(), PluginError> {
        self.plugin.stop(ctx).await
    }

    async fn destroy(&self) -> Result<(), PluginError> {
        self.plugin.destroy().await
    }

    async fn health(&self) -> Health {
        self.plugin.health().await
    }

    async fn reconfigure(&self, ctx: PluginContext) -> Result<Reconfigured, PluginError> {
        self.plugin.reconfigure(ctx).await
    }
}

#[cfg(test)]
mod tests {
    use plugin_core::PluginBuilder;
    use semver::VersionReq;

    use super::*;

    fn factory(versions: &[&'static str]) -> PluginFactory {
        let factory = PluginFactory::new();
        for version in versions.iter().copied() {
            factory.add("greeter", move || PluginBuilder::new("greeter", version).unwrap().build()).unwrap();
        }
        factory
    }

    async fn version(factory: &PluginFactory, wanted: Option<&str>) -> Result<String, LoadError> {
        let version = wanted.map(|text| VersionReq::parse(text).unwrap());
        let source = PluginSource { type_name: "greeter".to_owned(), version, name: None };
        Ok(factory.load(&source).await?.manifest().version.to_string())
    }

    #[tokio::test]
    async fn takes_the_newest_that_fits() {
        let factory = factory(&["1.0.0", "1.10.0", "1.9.0", "2.0.0", "3.0.0-beta.1"]);
        for (wanted, expected) in [
            (None, "2.0.0"),
            (Some("^1"), "1.10.0"),
            (Some("=1.9.0"), "1.9.0"),
            (Some("3.0.0-beta.1"), "3.0.0-beta.1"),
        ] {
            assert_eq!(version(&factory, wanted).await.unwrap(), expected);
        }
        let error = version(&factory, Some("^4")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "plugin type `greeter` is there in 1.0.0, 1.9.0, 1.10.0, 2.0.0, 3.0.0-beta.1, and none fits `^4`"
        );
        let pre = factory_of_pre().await;
        assert_eq!(pre, "1.0.0-rc.1");
    }

    async fn factory_of_pre() -> String {
        version(&factory(&["1.0.0-rc.1"]), None).await.unwrap()
    }

    #[tokio::test]
    async fn an_instance_may_have_a_name_of_its_own() {
        let factory = factory(&["1.0.0"]);
        let name = Some(PluginName::new("greeter-de").unwrap());
        let source = PluginSource { type_name: "greeter".to_owned(), version: None, name };
        assert_eq!(factory.load(&source).await.unwrap().manifest().name.as_str(), "greeter-de");
    }

    #[tokio::test]
    async fn what_is_unknown_or_there_twice_is_refused() {
        let factory = factory(&["1.0.0"]);
        let source = PluginSource { type_name: "x".to_owned(), version: None, name: None };
        assert!(matches!(factory.load(&source).await, Err(LoadError::UnknownType(_))));
        let again = factory.add("greeter", || PluginBuilder::new("greeter", "1.0.0").unwrap().build());
        assert!(matches!(again, Err(FactoryError::Exists { .. })));
        assert_eq!(factory.types().len(), 1);
    }
}
