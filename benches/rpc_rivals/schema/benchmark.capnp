# The message of benchmark.proto.
@0xf3a1c0d2b4e59687;

struct BenchmarkMessage {
  field1 @0 :Text;
  field2 @1 :Int32;
  field3 @2 :Int32;
  field4 @3 :Text;
  field5 @4 :List(UInt64);
  field6 @5 :Int32;
  field7 @6 :Text;
  field9 @7 :Text;
  field12 @8 :Bool;
  field13 @9 :Bool;
  field14 @10 :Bool;
  field16 @11 :Int32;
  field17 @12 :Bool;
  field18 @13 :Text;
  field22 @14 :Int64;
  field23 @15 :Int32;
  field24 @16 :Bool;
  field25 @17 :Int32;
  field29 @18 :Int32;
  field30 @19 :Bool;
  field59 @20 :Bool;
  field60 @21 :Int32;
  field67 @22 :Int32;
  field68 @23 :Int32;
  field78 @24 :Bool;
  field80 @25 :Bool;
  field81 @26 :Bool;
  field100 @27 :Int32;
  field101 @28 :Int32;
  field102 @29 :Text;
  field103 @30 :Text;
  field104 @31 :Int32;
  field128 @32 :Int32;
  field129 @33 :Text;
  field130 @34 :Int32;
  field131 @35 :Int32;
  field150 @36 :Int32;
  field271 @37 :Int32;
  field272 @38 :Int32;
  field280 @39 :Int32;
}

interface Benchmark {
  say @0 (message :BenchmarkMessage) -> (message :BenchmarkMessage);
}
