// Re-exports the prunable units: table, rules and selection.
export {
  checkLayerTargets,
  checkReachable,
  checkShare,
  hardSparsity,
  mostSparsity,
  selectedSpec,
  type SelectOptions,
  selectUnits,
} from "./selection.ts";
export {
  checkKinds,
  checkTakenRules,
  layersOf,
  livingLayers,
  type MinimumWidths,
  type ResolvedRules,
  UNIT_KINDS,
  type UnitKind,
  type UnitRules,
} from "./rules.ts";
export {
  checkPerUnit,
  keptUnits,
  type LayerPart,
  type LayerUnits,
  type Selection,
  selectionMasks,
  type UnitGroup,
  unitName,
  unitParameters,
  type UnitTable,
  unitTable,
} from "./table.ts";
