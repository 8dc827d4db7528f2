# Derivations of all kinds, built by Nix and by narfs: see build_test.go. Builders are /bin/sh of the host, let into the sandbox.
let
  mk = name: script: attrs: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/bin:/usr/bin";
    args = [ "-e" "-c" script ];
  } // attrs);
  source = builtins.toFile "source" "some text\n";
  base = mk "base" "mkdir $out; echo base > $out/file; cat ${source} > $out/source" { };
  floating = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  fixed = algo: mode: hash: { outputHashAlgo = algo; outputHashMode = mode; outputHash = hash; };
  text = builtins.hashString "sha256" "fixed\n";
in rec {
  inherit base;
  file = mk "file" "echo a file > $out" { };
  executable = mk "executable" "printf '#!/bin/sh\\necho hi\\n' > $out; chmod 755 $out" { };
  symlink = mk "symlink" "ln -s ${base}/file $out" { };
  dangling = mk "dangling" "ln -s /nowhere/at/all $out" { };
  emptyFile = mk "empty-file" ": > $out" { };
  emptyFolder = mk "empty-folder" "mkdir $out" { };
  deep = mk "deep" "mkdir -p $out/a/b/c/d/e/f; for i in 1 2 3 4 5 6 7 8 9; do echo $i > $out/a/b/c/d/e/f/$i; ln $out/a/b/c/d/e/f/$i $out/a/$i; done" { };
  odd = mk "odd" "mkdir $out; echo 1 > \"$out/with space\"; echo 2 > \"$out/ünïcode\"; echo 3 > $out/Conf.h; echo 4 > $out/conf.h; touch \"$out/new
line\"" { };
  modes = mk "modes" "mkdir -p $out/d; echo x > $out/r; chmod 400 $out/r; echo y > $out/x; chmod 711 $out/x; chmod 700 $out/d; touch -d 2001-01-01 $out/r" { };
  self = mk "self" "mkdir $out; echo $out/file > $out/file" { };
  references = mk "references" "mkdir $out; ln -s ${base} $out/base; echo ${source} > $out/source" { };
  unused = mk "unused" "cat ${base}/file > $out" { };
  border = mk "border" "head -c 65530 /dev/zero | tr '\\0' x > $out; echo ${base} >> $out; head -c 200000 /dev/zero | tr '\\0' y >> $out; echo ${source} >> $out" { };
  outputs = mk "outputs" "mkdir $out $dev; echo ${base} > $doc; echo $out > $dev/out; echo lib > $out/lib" { outputs = [ "out" "dev" "doc" ]; };
  ofOutputs = mk "of-outputs" "cat ${outputs.doc} ${outputs.dev}/out > $out" { };
  flat = mk "flat" "echo fixed > $out" (fixed "sha256" "flat" text);
  recursive = mk "recursive" "mkdir $out; echo fixed > $out/file" (fixed "sha256" "recursive" "sha256-PLw1gKJbvRtVut7C3SPXEv3HW1FkEndghG4zSBSKt7s=");
  md5 = mk "md5" "echo fixed > $out" (fixed "md5" "flat" (builtins.hashString "md5" "fixed\n"));
  sha1 = mk "sha1" "echo fixed > $out" (fixed "sha1" "flat" (builtins.hashString "sha1" "fixed\n"));
  sha512 = mk "sha512" "echo fixed > $out" (fixed "sha512" "flat" (builtins.hashString "sha512" "fixed\n"));
  ofFixed = mk "of-fixed" "cat ${flat} ${md5} > $out" { };
  wrongHash = mk "wrong-hash" "echo other > $out" (fixed "sha256" "flat" text);
  passAsFile = mk "pass-as-file" "cat $longPath > $out; echo \"$short\" >> $out" { passAsFile = [ "long" ]; long = "a text that is passed as a file\n${base}"; short = "not this"; };
  structured = mk "structured" ". ./.attrs.sh; echo $word > \${outputs[out]}; echo \${list[1]} >> \${outputs[out]}" { __structuredAttrs = true; word = "a 'word'"; list = [ 1 "two" base ]; set = { a = "b"; }; builder = "/bin/bash"; };
  graph = mk "graph" "cat graph > $out" { exportReferencesGraph = [ "graph" references ]; };
  environment = mk "environment" "env | sort | grep -v '^_=' | grep -v '^SHLVL=' | grep -v '^NIX_BUILD_CORES=' > $out; id -u >> $out; id -g >> $out; pwd >> $out; hostname >> $out 2>&1 || true; ls -a >> $out" { quotes = "a \"quoted\" 'text' with \\ and \t\n"; };
  placeholders = mk "placeholders" "mkdir $out; echo ${builtins.placeholder "out"} > $out/file" { };
  allowed = mk "allowed" "mkdir $out; ln -s ${base} $out/base" { allowedReferences = [ base ]; };
  notAllowed = mk "not-allowed" "mkdir $out; ln -s ${base} $out/base" { allowedReferences = [ ]; };
  disallowed = mk "disallowed" "mkdir $out; ln -s ${references} $out/r" { disallowedRequisites = [ base ]; };
  fails = mk "fails" "echo that is all; exit 3" { };
  nothing = mk "nothing" "true" { };
  ofFailure = mk "of-failure" "cat ${fails} > $out" { };
  cycle = mk "cycle" "mkdir $out $dev; echo $out > $dev/f; echo $dev > $out/f" { outputs = [ "out" "dev" ]; };
  setuid = mk "setuid" "echo x > $out; if chmod 4755 $out 2> /dev/null; then echo worked >> $out; fi" { };
  noProgram = mk "no-program" "" { builder = "/no/such/program"; };
  otherSystem = mk "other-system" "" { system = "mips-none"; };
  feature = mk "feature" "" { requiredSystemFeatures = [ "no-such-feature" ]; };
  caFile = mk "ca-file" "echo contents > $out" floating;
  caSelf = mk "ca-self" "mkdir $out; echo $out/file > $out/file" floating;
  caChain = mk "ca-chain" "mkdir $out; ln -s ${caSelf} $out/self; ln -s ${base} $out/base" floating;
  caOutputs = mk "ca-outputs" "mkdir $out; echo $out > $dev; echo ${caFile} >> $dev" (floating // { outputs = [ "out" "dev" ]; });
  ofCA = mk "of-ca" "cat ${caFile} ${caChain}/self/file > $out; echo ${caOutputs.dev} >> $out" { };
  env = mk "user-environment" "" {
    builder = "builtin:buildenv"; manifest = source; derivations = [ "true" 5 1 base "true" 4 1 outputs ]; PATH = "";
  };
  fetched = mk "fetched" "" ({ builder = "builtin:fetchurl"; url = "file:///etc/no-such-file"; } // fixed "sha256" "flat" text);
}
